"""Hydra, and nothing else: finds ``conf/``, composes a command's configuration from it and the command line, keeps secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nas.config.common import TEXT_KEYS
from nas.errors import InputError, suggestion
from nas.secrets import mask_password, mask_passwords

_STUDY_FOLDERS = (".", "simulated", "studies")
"""Where studies lie below a conf folder; the other folders there are groups, whose files may bear the same header."""

_PACKAGE_HEADER = re.compile(r"^#\s*@package\s+_global_\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Composed:
    """One command's configuration.

    Attributes:
        name: The chosen study configuration, such as ``osa_cifar``.
        plain: Nested plain data, every interpolation resolved; never write it anywhere.
        written: The same for files, logs and the study's record: ``${oc.env:…}`` left as it is and passwords masked.
    """

    name: str
    plain: dict[str, Any]
    written: dict[str, Any]


def packaged_conf() -> Path:
    """Return the ``conf/`` folder that belongs to this package: beside it in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def conf_folders() -> list[Path]:
    """Return the folders that studies are looked for in, first hit wins: ``./conf`` of the working directory, then ours."""
    own, ours = Path.cwd() / "conf", packaged_conf()
    return [own, ours] if own.is_dir() and own.resolve() != ours else [ours]


def studies() -> list[str]:
    """Return the names that ``conf=<name>`` takes: the files with a ``# @package _global_`` header in the conf folders."""
    names = {
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in conf_folders()
        for path in (found for inside in _STUDY_FOLDERS for found in (folder / inside).glob("*.yaml"))
        if _PACKAGE_HEADER.search(path.read_text(encoding="utf-8", errors="replace"))
    }
    return sorted(names)


def compose(
    command: str, root: Mapping[str, Any], groups: Mapping[str, str | None], arguments: Sequence[str], *, study: bool = True
) -> Composed:
    """Compose a command's configuration with the overrides of its command line.

    Args:
        command: Name of the command, for messages.
        root: The command's root keys and their values before any file is read.
        groups: The groups that it is composed of, with their default options; a later one may override an earlier one's keys.
        arguments: The command line, in Hydra's override grammar.
        study: Whether the command needs ``conf=<name>``, which is read last.

    Raises:
        InputError: If an argument cannot be read, or names a study, an option or an environment variable that does not exist.
    """
    overrides = _parse([_verbatim(argument) for argument in arguments])
    files, overrides = _part_files(groups, overrides)
    _reject_scalars(command, root, groups, overrides)
    name = _chosen_study(overrides) if study else command
    what = f"conf={name}" if study else f"the configuration of nas.{command}"
    # A study is read as a plain file of the folder: as an option of a group named conf it would need the folder above on the
    # search path, and there Hydra takes any folder of the user's, such as models or references, for a group.
    overrides = [override for override in overrides if not (study and override.key_or_group == "conf")]
    later = [override for override in overrides if override.key_or_group.partition(".")[0] in files]
    overrides = [override for override in overrides if override not in later]
    folders = [str(folder) for folder in conf_folders()]
    defaults = ["_self_", *({group: option} for group, option in groups.items()), *([name] if study else [])]
    search_path = [f"file://{folder}" for folder in folders[1:]]
    node = OmegaConf.create({"defaults": defaults, **root, "hydra": {"searchpath": search_path}})
    ConfigStore.instance().store(name=f"{command}_root", node=node)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=folders[0], version_base="1.3"):
            config = hydra_compose(f"{command}_root", overrides=_settle(overrides, set(groups)))
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, what, groups) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{what} is no readable YAML ({_place(error)}): mend the file.") from None
    for group, path in files.items():
        _take_file(config, group, path, later)
    _drop_arguments_of_another_target(config, [*overrides, *later])
    try:
        if OmegaConf.is_dict(config.get("study")) and _raw(config.study).get("name", "") is None:
            config.study.name = name.replace("/", "_")  # it names a folder
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _unresolved(error) from None
    assert isinstance(plain, dict)
    return Composed(name, {str(key): value for key, value in plain.items()}, _written(config))


def resolve_written(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that was written to a file with its interpolations resolved in this environment.

    Raises:
        InputError: One cannot be resolved: an environment variable is not set.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.create(dict(written)), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _unresolved(error) from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _verbatim(argument: str) -> str:
    """Quote the value of a key that holds free text, in which ``<`` and ``=`` are no grammar of Hydra's."""
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in TEXT_KEYS or value in ("", "null"):
        return argument
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    # Of backslashes Hydra reads only those before a quote or at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"{key}='{escaped}'"


def _chosen_study(overrides: Sequence[Override]) -> str:
    chosen = [override for override in overrides if override.key_or_group == "conf" and not override.is_delete()]
    if not chosen:
        raise InputError(f"conf is not set: choose a study with conf=<name>; there are {', '.join(studies())}.")
    if len(chosen) > 1:
        raise InputError(f"conf is given {len(chosen)} times: give it once.")
    name = chosen[0].value()
    if name not in studies():
        if any((folder / f"{name}.yaml").is_file() for folder in conf_folders()):
            raise InputError(f"conf={name} has no first line '# @package _global_': add it to the file.")
        raise InputError(f"conf={name} does not exist{suggestion(str(name), studies(), 'studies')}")
    return str(name)


def _parse(arguments: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
        except (OverrideParseException, HydraException):
            raise InputError(
                f"the argument {mask_password(argument)!r} cannot be read: write key=value, quoted where it has brackets."
            ) from None
        if override.is_sweep_override():
            raise InputError(f"the argument {mask_password(argument)!r} names several values: give one, or a list as key=[a,b].")
        parsed.append(override)
    return parsed


def _reject_scalars(
    command: str, root: Mapping[str, Any], groups: Mapping[str, str | None], overrides: Sequence[Override]
) -> None:
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if key in groups and not isinstance(value, str) and not override.is_delete():
            options = ", ".join(_options(key))
            raise InputError(f"{key}={value} cannot be used: give one of {options}, or set single keys as {key}.<key>=<value>.")
        if isinstance(root.get(key), Mapping) and not isinstance(value, dict) and not override.is_delete():
            keys = list(root[key])
            raise InputError(
                f"{key}={value} cannot be used: in nas.{command} {key} is a mapping with the keys {', '.join(keys)}; "
                f"set {key}.{keys[0]}={value}."
            )


def _part_files(groups: Mapping[str, str | None], overrides: Sequence[Override]) -> tuple[dict[str, Path], list[Override]]:
    """Part the groups whose option is the path of a YAML file, such as ``space=runs/x/space.yaml``, from all other overrides."""
    files: dict[str, Path] = {}
    others = []
    for override in overrides:
        key, value = override.key_or_group, override.value()
        if key in groups and isinstance(value, str) and value.endswith((".yaml", ".yml")) and not override.is_delete():
            if key in files:
                raise InputError(f"{key} is given twice, as {files[key]} and {value}: give it once.")
            files[key] = Path(value)
        else:
            others.append(override)
    return files, others


def _take_file(config: DictConfig, group: str, path: Path, overrides: Sequence[Override]) -> None:
    """Let a file stand for all that the study says of a group, and the command line's keys of that group over it."""
    try:
        text = path.read_text(encoding="utf-8")
        # As Hydra reads the study's own files, to which 1e6 is a number; text would be taken for a key without a value.
        node = OmegaConf.create(text) if isinstance(yaml.safe_load(text), dict) else None
    except OSError as error:
        options = ", ".join(_options(group))
        raise InputError(f"{group}={path} cannot be read ({error.strerror}): give a file, or one of {options}.") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise InputError(f"{group}={path} is no readable YAML ({_place(error)}): mend the file.") from None
    if not OmegaConf.is_dict(node):
        raise InputError(f"{group}={path} holds no keys: write a mapping, as in the files of conf/{group}.")
    with open_dict(config):
        config[group] = node
        for override in overrides:
            key, value = override.key_or_group, override.value()
            if key.partition(".")[0] != group:
                continue
            if override.is_delete():
                outer, _, leaf = key.rpartition(".")
                parent = OmegaConf.select(config, outer) if outer else config
                if OmegaConf.is_dict(parent):
                    parent.pop(leaf, None)
            else:
                OmegaConf.update(config, key, value, merge=not _is_domain(value), force_add=True)


def _settle(overrides: Sequence[Override], groups: set[str]) -> list[str]:
    """Return the overrides such that Hydra accepts every key, known or not: our own schema judges the keys, in one place."""
    settled = []
    for override in overrides:
        key, line = override.key_or_group, override.input_line
        assert line is not None
        if override.is_delete() or key.startswith("hydra"):
            settled.append(line)
            continue
        line = "++" + line.lstrip("+")
        if key in groups:
            line = line.lstrip("+")
        elif key.startswith("space.") and _is_domain(override.value()):
            # Hydra would merge {low, high} into the file's {each: …} and refuse a list there: a domain is replaced.
            settled.append(f"++{key}=null")
        settled.append(line)
    return settled


def _explain(error: Exception, what: str, groups: Iterable[str]) -> InputError:
    text = str(error)
    missing = re.search(r"Could not find '([^']+)'", text) or re.search(r"Unable to find .*?'([^']+)'", text)
    if missing:
        path = missing.group(1)
        group, _, option = path.rpartition("/")
        return InputError(f"{group}={option} does not exist{suggestion(option, _options(group), 'options')}")
    if isinstance(error, ConfigCompositionException) and "Multiple values for" in text:
        return InputError(f"{_first_line(error)}: give each of {', '.join(groups)} once.")
    return InputError(f"{what} cannot be composed: {_first_line(error)}.")


def _raw(config: DictConfig) -> dict[Any, Any]:
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    return raw


def _is_domain(value: object) -> bool:
    return isinstance(value, list) or (
        isinstance(value, dict) and not {"low", "high", "each", "per_stage"}.isdisjoint(map(str, value))
    )


def _unresolved(error: OmegaConfBaseException) -> InputError:
    key = getattr(error, "full_key", None) or "the configuration"
    variable = re.search(r"Environment variable '([^']+)' not found", str(error))
    if variable:
        return InputError(f"{key} needs the environment variable {variable.group(1)}, which is not set: export it.")
    if "Missing mandatory value" in str(error):
        return InputError(f"{key} is not set: give {key}=<value>.")
    return InputError(f"{key} cannot be resolved ({_first_line(error)}): mend its ${{...}}.")


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return _first_line(error)
    return f"{getattr(error, 'problem', None)} in {Path(mark.name).name}, line {mark.line + 1}"


def _options(group: str) -> list[str]:
    return sorted({path.stem for folder in conf_folders() for path in (folder / group).glob("*.yaml")})


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


def _drop_arguments_of_another_target(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Keep only the user's own arguments when ``sampler._target_=…`` replaces the class that the chosen file is about."""
    for override in overrides:
        group, _, leaf = override.key_or_group.partition(".")
        if leaf == "_target_" and OmegaConf.is_dict(config.get(group)):
            own = {o.key_or_group.split(".")[1] for o in overrides if o.key_or_group.startswith(f"{group}.")}
            own |= {"seed"} if group == "sampler" else set()  # the study's, and no argument of the class
            config[group] = {key: value for key, value in config[group].items() if key in own}


@contextmanager
def _environment_unresolved() -> Iterator[None]:
    from omegaconf.resolvers import oc

    def literal(key: str, *default: str) -> str:
        return f"${{oc.env:{','.join([key, *map(str, default)])}}}"

    OmegaConf.register_new_resolver("oc.env", literal, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True, use_cache=False)


def _written(config: DictConfig) -> dict[str, Any]:
    raw = _raw(config)

    def walk(resolved: Any, unresolved: Any) -> Any:
        if isinstance(unresolved, dict):
            return {str(key): walk(_get(resolved, key), value) for key, value in unresolved.items()}
        if isinstance(unresolved, list):
            return [walk(_get(resolved, index), value) for index, value in enumerate(unresolved)]
        value = unresolved if resolved is None else resolved
        return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value

    def _get(node: Any, key: Any) -> Any:
        # A secret inside another resolver, such as ${oc.decode:${oc.env:X}}, cannot be resolved without it: it stays as written.
        try:
            return node[key]
        except OmegaConfBaseException:
            return None

    with _environment_unresolved():
        written = mask_passwords(walk(config, raw))
    assert isinstance(written, dict)
    return written
