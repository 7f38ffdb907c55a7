"""Connects to a Ray cluster that is there, says how many workers its nodes bear, and asks its nodes questions.

Nothing here starts a cluster. What the workers do all day is ``nas.remote``'s. Ray is imported by ``connect`` and after it.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas.config.search import SearchConfig
from nas.errors import InputError
from nas.failures import first_line

_ANSWER_SECONDS = 3.0
_CONNECT_SECONDS = 15.0
_ROUNDING = 1e4  # Ray keeps amounts to four digits


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        resources: All that it has, by Ray's names.
    """

    id: str
    host: str
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Share:
    """What of a node one worker takes.

    Attributes:
        others: By the names that the nodes were started with; ``memory`` is in bytes.
    """

    cpus: float
    gpus: float
    others: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        named = {"num_cpus": self.cpus, "num_gpus": self.gpus, **self.others}
        return ", ".join(f"{name}: {amount:g}" for name, amount in named.items() if amount)

    def options(self) -> dict[str, Any]:
        """Return what Ray is told."""
        others = dict(self.others)
        memory = {"memory": others.pop("memory")} if "memory" in others else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": others, **memory}

    @property
    def workers_per_gpu(self) -> int:
        """How many may be on one GPU."""
        return max(1, math.floor(1 / self.gpus)) if self.gpus else 1


@dataclass(frozen=True)
class Staff:
    """How many workers there are, and what each takes.

    Attributes:
        measuring: ``None`` where candidates are measured by who trains them.
        measurers: How many only measure.
        trainers: How many train.
    """

    measuring: Share | None
    training: Share
    measurers: int
    trainers: int


def connect(address: str | None) -> None:
    """Become a driver of the cluster, if this process is not one yet.

    Args:
        address: ``host:port``, or ``auto`` (as ``None``) for the one that ``RAY_ADDRESS`` names or this machine is a node of.

    Raises:
        InputError: Ray is not installed, or the cluster does not answer or is another version's.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "engine=ray needs the package ray, which is not installed: install this package with its extra, '.[ray]'."
        )
    wanted = address or "auto"
    told = os.environ.get("RAY_ADDRESS") or wanted if wanted == "auto" else wanted
    if told != "auto":
        _check_answers(wanted, told)
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        return
    _rehearse(wanted, told)
    try:
        ray.init(address=told, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise InputError(
            f"engine.address={wanted} cannot be used: no Ray runs on this machine; start one ('ray start --head'), let this "
            "machine join one ('ray start --address=HOST:PORT'), or give engine.address=HOST:PORT."
        ) from None
    except (RayError, RuntimeError, ValueError, OSError, SystemExit) as error:
        raise _unusable(wanted, first_line(error)) from None


def _unusable(wanted: str, reason: str) -> InputError:
    return InputError(
        f"engine.address={wanted} cannot be used ({reason}): give the host:port that 'ray start --head' printed, and run the "
        "command on a node of that cluster, with the same versions of Python and Ray."
    )


def _rehearse(wanted: str, told: str) -> None:
    """Let another process try to connect: where something else answers than a Ray head, Ray goes on trying for two minutes."""
    script = "import logging, ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)"
    try:
        subprocess.run([sys.executable, "-c", script, told], capture_output=True, timeout=_CONNECT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _unusable(wanted, f"no Ray head answers within {_CONNECT_SECONDS:g} s") from None


def _check_answers(wanted: str, told: str) -> None:
    """Knock at the door, which tells at once where nobody is at home."""
    host, colon, port = told.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) >= 1 << 16:
        raise InputError(
            f"engine.address={told} cannot be used: give host:port of the cluster's head, such as head:6379, or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        from_where = "" if told == wanted else f" (RAY_ADDRESS={told})"
        raise InputError(
            f"engine.address={wanted}{from_where} does not answer ({error.strerror or error}): check that the cluster runs and "
            "that host:port is what 'ray start --head' printed."
        ) from None


def nodes() -> list[Node]:
    """Return the nodes that are alive."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [Node(node["NodeID"], node["NodeManagerHostname"], dict(node["Resources"])) for node in alive]


def shares(config: SearchConfig, there: Sequence[Node]) -> tuple[Share | None, Share]:
    """Return what one who measures takes, ``None`` where those who train do it, and what one who trains takes.

    What the configuration leaves open is, on nodes with GPUs, a whole one to measure and the ``train.packing``-th part of one
    to train; everywhere a CPU, or as many as ``measure.threads``.

    Raises:
        InputError: No node has that.
    """
    part = 1.0 if config.packing == "auto" else math.floor(_ROUNDING / config.packing) / _ROUNDING
    threads = float(config.measure.threads or 1)
    training = _share("train.resources", config, config.train_resources or {}, there, part, threads)
    if not config.measure_resources:
        return None, training
    return _share("measure.resources", config, config.measure_resources, there, 1.0, threads), training


def _share(
    key: str, config: SearchConfig, wanted: Mapping[str, float], there: Sequence[Node], gpus: float, threads: float
) -> Share:
    others = {name: amount for name, amount in wanted.items() if name not in ("num_cpus", "num_gpus")}
    cpus = wanted.get("num_cpus", threads)
    if "num_cpus" in wanted and config.measure.threads is not None and config.measure.threads > max(1.0, cpus):
        raise InputError(
            f"measure.threads={config.measure.threads} is more than {key}.num_cpus={cpus:g}: set the latter to "
            f"{config.measure.threads}, or fewer threads."
        )
    named = [node for node in there if bears(node, Share(0.0, 0.0, others))]
    if "num_gpus" in wanted:
        gpus = wanted["num_gpus"]
    elif config.device == "cpu" or (config.device == "auto" and not any(node.resources.get("GPU") for node in named)):
        gpus = 0.0
    share = Share(cpus, gpus, others)
    if not any(bears(node, share) for node in there):
        shown = "{" + ", ".join(f"{name}: {amount:g}" for name, amount in wanted.items()) + "}" if wanted else "null"
        raise InputError(
            f"{key}={shown} cannot be had: no node of the cluster has {share}; the most that a node has is {_most(there)}."
        )
    return share


def _most(there: Iterable[Node]) -> str:
    most: dict[str, float] = {}
    for node in there:
        for name, amount in node.resources.items():
            if not name.startswith("node:") and name not in ("memory", "object_store_memory"):
                plain = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, name)
                most[plain] = max(most.get(plain, 0.0), amount)
    return ", ".join(f"{name}: {amount:g}" for name, amount in sorted(most.items())) or "nothing"


def staff(measuring: Share | None, training: Share, there: Sequence[Node], wanted: Literal["auto"] | int) -> Staff:
    """Return how many workers the nodes bear: with ``auto`` all, and one who measures for each who trains where both compete.

    Raises:
        InputError: There is no room for one who trains beside one who measures, or not for as many as are wanted.
    """
    rooms = [_Room(node) for node in there]

    def place(share: Share) -> bool:
        return any(room.take(share) for room in rooms)

    measurers = trainers = 0
    most = math.inf if wanted == "auto" else wanted
    while trainers < most:
        measured = measuring is not None and measurers <= trainers and place(measuring)
        trained = place(training)
        measurers, trainers = measurers + measured, trainers + trained
        if not trained:
            break
    if trainers == 0:
        raise InputError(
            f"train.resources ({training}) cannot be had beside measure.resources ({measuring}): take measure.resources out, and "
            "candidates are measured where they are trained, alone on the device, or add nodes."
        )
    if trainers < most != math.inf:
        raise InputError(
            f"engine.workers={wanted} is more than the cluster's {len(there)} nodes bear ({training} each): give at most "
            f"{trainers}, or auto."
        )
    return Staff(measuring, training, measurers, trainers)


def bears(node: Node, share: Share) -> bool:
    """Whether a node has a share, if nobody else takes anything of it."""
    return _Room(node).takes(share)


class _Room:
    """What is left of a node; of a GPU a worker takes a part or, from one on, whole ones."""

    def __init__(self, node: Node) -> None:
        self._left = {name: amount for name, amount in node.resources.items() if name not in ("CPU", "GPU")}
        self._cpus = node.resources.get("CPU", 0.0)
        self._boards = [1.0] * int(node.resources.get("GPU", 0))

    def takes(self, share: Share) -> bool:
        """Whether there is room."""
        return (
            self._cpus >= share.cpus
            and len(self._on(share)) >= max(1.0, share.gpus) * (share.gpus > 0)
            and all(self._left.get(name, 0.0) >= amount for name, amount in share.others.items())
        )

    def take(self, share: Share) -> bool:
        """Take it, if there is room."""
        if not self.takes(share):
            return False
        self._cpus -= share.cpus
        for index in self._on(share)[: math.ceil(share.gpus)]:
            self._boards[index] -= min(1.0, share.gpus)
        for name, amount in share.others.items():
            self._left[name] -= amount
        return True

    def _on(self, share: Share) -> list[int]:
        return [index for index, left in enumerate(self._boards) if left >= min(1.0, share.gpus) - 0.5 / _ROUNDING]


def ask(share: Share, function: Callable[..., Any], *arguments: Any, on: Sequence[Node] | None = None) -> list[Any]:
    """Call a function in a process of its own on each of some nodes, or on one that has room, and return what it returns.

    Raises:
        InputError: As the function raises it, or the node cannot run this program.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A process that used a GPU keeps memory of it: it ends with the call.
    task = ray.remote(max_calls=1 if share.gpus else 0)(_called)
    options = share.options()
    where = [None] if on is None else [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in on]
    try:
        asked = [task.options(**options, scheduling_strategy=at).remote(str(Path.cwd()), function, arguments) for at in where]
        return list(ray.get(asked))
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        if isinstance(error.cause, ImportError):
            raise unprepared(error.cause) from None
        raise
    except RayError as error:
        raise unprepared(error) from None


def unprepared(error: BaseException) -> InputError:
    """Return the sentence that a node which cannot run this program earns."""
    return InputError(
        f"engine=ray: a node of the cluster cannot run this program ({first_line(error)}): install the same versions of it, "
        "of Python and of Ray on all nodes, and start them with the modules of allow_modules on their PYTHONPATH."
    )


def _called(folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    settle_in(folder)
    return function(*arguments)


def settle_in(folder: str) -> None:
    """Let relative paths mean what they mean where the command runs, on nodes that share its folder."""
    if os.path.isdir(folder):
        os.chdir(folder)
