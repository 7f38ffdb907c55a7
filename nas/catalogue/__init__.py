"""The networks that have a name: where each comes from, how it is built, and which accuracy was published for it.

Leaves measuring and training them to whoever asks.
"""

from nas.catalogue.models import (
    MISSING,
    MissingModel,
    Reference,
    ReferenceArchitecture,
    ReferenceSpace,
    as_candidate,
    find,
    from_file,
)
from nas.catalogue.published import Published, published

__all__ = [
    "MISSING",
    "MissingModel",
    "Published",
    "Reference",
    "ReferenceArchitecture",
    "ReferenceSpace",
    "as_candidate",
    "find",
    "from_file",
    "published",
]
