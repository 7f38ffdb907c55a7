"""Builds what ``_target_`` names in a configuration, and lets it reach only modules that are allowed to be reached."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from nas.errors import InputError, suggestion
from nas.typed import can_be_checked, typed

ALLOWED_MODULES = ("nas", "search_spaces", "optuna.samplers")


def build_target(key: str, node: Mapping[str, Any], allow_modules: Sequence[str] = (), **extra: Any) -> Any:
    """Call what ``node["_target_"]`` names with the node's other keys as arguments.

    Args:
        key: The node's place in the configuration, for messages.
        node: Plain data; nested mappings with a ``_target_`` of their own are built first.
        allow_modules: The user's own modules that may be reached, beside ``ALLOWED_MODULES``.
        extra: Further arguments, not from the configuration.

    Raises:
        InputError: If the target is not allowed, does not exist, or refuses its arguments.
    """
    return maker(key, node, allow_modules)(**extra)


def maker(key: str, node: Mapping[str, Any], allow_modules: Sequence[str] = ()) -> Callable[..., Any]:
    """Return what calls the target of a node, as often as need be; what is wrong with the node itself is said now.

    Args:
        key: See ``build_target``; likewise the others.

    Raises:
        InputError: If the target is not allowed, does not exist, or has no such arguments.
    """
    for place, inner in _mappings(key, node):
        target = locate_target(f"{place}._target_", str(inner["_target_"]), allow_modules)
        for name in inner:
            if str(name).startswith("_") and name != "_target_":
                raise InputError(f"{place}.{name} is not a known key: take it out.")
        _check_arguments(place, inner, target)
    # Hydra's own way takes ten milliseconds: a node that holds nothing to be built first is called outright.
    is_plain = sum(1 for _ in _mappings(key, node)) == 1
    arguments = {name: value for name, value in node.items() if name != "_target_"}

    def make(**extra: Any) -> Any:
        try:
            if is_plain:
                return target(**copy.deepcopy(arguments), **extra)
            return instantiate({**node, **extra}, _convert_="all")
        except InstantiationException as error:
            cause = error.__cause__ or error
            if isinstance(cause, ValueError | TypeError):
                raise _refused(key, cause, str(error)) from None
            raise cause from None
        except (ValueError, TypeError) as error:
            raise _refused(key, error, "") from None

    return make


def _refused(key: str, cause: BaseException, told: str) -> InputError:
    text = _placed(str(cause).strip().rstrip("."), key, told)
    named = text.startswith(f"{key}.") or (isinstance(cause, ValueError) and key in text)
    return InputError(f"{text}." if named else f"{key}: {text}.")


def _placed(text: str, key: str, told: str) -> str:
    """Return a refusal of a nested target with its own place in the configuration in front of the keys that it names."""
    nested = re.search(r"^full_key: ([\w.-]+)$", told, re.MULTILINE)
    if nested is None:
        return text
    place = f"{key}.{nested[1]}"
    return f"{place}.{text.removeprefix(f'{key}.')}" if text.startswith(f"{key}.") else f"{place}: {text}"


def locate_target(key: str, path: str, allow_modules: Sequence[str] = ()) -> Any:
    """Import the callable that a dotted path names.

    Raises:
        InputError: If its module is not allowed, if there is no such callable, or if it was only imported there from
            a module that is not allowed (so that ``nas.config.json.loads`` leads nowhere).
    """
    allowed = (*ALLOWED_MODULES, *allow_modules)
    if not _within(path, allowed):
        raise InputError(
            f"{key}={path} is not allowed: allowed are {', '.join(allowed)}; add a module of your own to allow_modules."
        )
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"{key}={path} cannot be imported: {error}; check the path and the working directory.") from None
    except Exception as error:  # noqa: BLE001 - whatever is wrong in a module of a user's own
        said = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise InputError(f"{key}={path} cannot be imported ({type(error).__name__}: {said}): mend {module_name}.") from None
    found = getattr(module, name, None)
    if found is None or not callable(found):
        classes = [known for known, value in vars(module).items() if isinstance(value, type)]
        raise InputError(f"{key}={path}: {module_name} has no class {name}{suggestion(name, classes, 'classes')}")
    if _within(path, ("nas", "search_spaces")) and not isinstance(found, type):
        raise InputError(f"{key}={path} is not allowed: of this package only classes may be named.")
    if not _within(f"{getattr(found, '__module__', '')}.", allowed):
        raise InputError(f"{key}={path} is not allowed: it is defined in {found.__module__}; name that module in allow_modules.")
    return found


def _within(path: str, modules: Iterable[str]) -> bool:
    return any(path.startswith(f"{module}.") for module in modules)


def _mappings(key: str, node: Any) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping with a ``_target_``, the node's own first, each with its place."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from _mappings(f"{key}.{name}", value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from _mappings(f"{key}[{index}]", value)


def _check_arguments(key: str, node: Mapping[str, Any], target: Any) -> None:
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in node:
        if not name.startswith("_") and name not in parameters:
            raise InputError(f"{key}.{name} is not a known key of {node['_target_']}{suggestion(name, parameters, 'keys')}")
    if dataclasses.is_dataclass(target) and target.__module__.startswith("nas."):
        hints = get_type_hints(target, include_extras=True)
        for name, value in node.items():
            if name in hints and can_be_checked(hints[name]):
                typed(hints[name], value, f"{key}.{name}")
