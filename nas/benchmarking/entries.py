"""The networks of a benchmark: what each word of ``models`` stands for, as something that can be built. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from nas import catalogue
from nas.catalogue import MissingModel
from nas.errors import InputError
from nas.failures import first_line
from nas.found import find_run, read_front


@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        model: Its name in tables.
        source: ``torchvision``, ``timm``, ``preset``, ``file`` or ``study``.
        input_shape: One image: (channels, height, width).
        num_classes: Its outputs.
        build: Makes it.
        architecture_id: What is built, whatever it is called.
        top1_validation: What its study scored on data of its own, after its brief training.
    """

    model: str
    source: str
    input_shape: tuple[int, int, int]
    num_classes: int
    architecture_id: str
    build: Callable[[], nn.Module]
    top1_validation: float | None = None


@dataclass(frozen=True)
class Missing:
    """A network that no library has, with the reason."""

    model: str
    reason: str


def entries(word: str, input_size: int | None, num_classes: int) -> list[Entry] | Missing:
    """Return the networks that one word of ``models`` stands for.

    Args:
        word: A name, ``<path>.yaml`` for an architecture, or ``study:<run folder>``.
        input_size: Side of the square images in pixels; ``None`` takes each network's own.
        num_classes: For all but those of a study, which have their own.

    Raises:
        InputError: There is no such network, file or run folder.
    """
    if word.startswith("study:"):
        return _of_study(word.removeprefix("study:"), input_size)
    try:
        reference = catalogue.find(word)
    except MissingModel as error:  # of a word that is a file, the model is what the file names
        return Missing(word, catalogue.MISSING.get(word.rpartition(":")[2], first_line(error)))
    side = input_size or reference.input_size
    return [
        Entry(
            model=reference.name,
            source=reference.source,
            input_shape=(3, side, side),
            num_classes=num_classes,
            build=lambda: reference.build(3, num_classes),
            architecture_id=reference.key,
        )
    ]


def entry(word: str, model: str, input_size: int | None, num_classes: int) -> Entry:
    """Return the one network called ``model`` among those that ``word`` stands for.

    Raises:
        InputError: It is not there any more.
    """
    found = entries(word, input_size, num_classes)
    for candidate in [] if isinstance(found, Missing) else found:
        if candidate.model == model:
            return candidate
    raise InputError(f"models: {word} has no network {model} any more: run the benchmark again.")


def _of_study(name: str, input_size: int | None) -> list[Entry]:
    found = read_front(find_run(name))
    if not found:
        raise InputError(f"models: study:{name} has no front yet: let its search find a network first.")
    return [
        Entry(
            model=network.name,
            source="study",
            input_shape=(network.input_shape[0], input_size, input_size) if input_size else network.input_shape,
            num_classes=network.num_classes,
            build=network.build,
            architecture_id=network.architecture.id,
            top1_validation=network.top1,
        )
        for network in found
    ]
