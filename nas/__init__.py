"""Hardware-aware search for networks: measure on the device, train briefly, keep the best trade-offs, ship the one chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.shipped import load_model as load_model

__all__ = ["__version__", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Late: importing a package must not take the seconds that torch does.
    if name == "load_model":
        from nas.shipped import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
