"""Where a search measures and trains, on this machine, on a cluster's nodes or in a table: its grounds there, and its engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from nas import cluster
from nas.config.search import SearchConfig
from nas.engine import Engine, InlineEngine
from nas.errors import InputError
from nas.grounds import (
    DeviceGrounds,
    Grounds,
    device_grounds,
    joined_grounds,
    real_grounds,
    simulated_grounds,
    training_grounds,
    training_packing,
)
from nas.local import LocalEngine
from nas.lookup import Table
from nas.remote import Kind, RayEngine
from nas.simulate import SimulatedEngine
from nas.train.data import DataRequest
from search_spaces.base import SearchSpace


class Site(Protocol):
    """A place for a search.

    Attributes:
        measuring: What its measuring device allows.
    """

    measuring: DeviceGrounds

    def grounds(self, space: SearchSpace, request: DataRequest, before: Mapping[str, Any] | None) -> Grounds:
        """Settle everything else; see ``nas.grounds.training_grounds``."""
        ...

    def engine(self, run_dir: Path) -> Callable[[], Engine]:
        """Return what makes the engine; the grounds are settled."""
        ...


def site_of(config: SearchConfig) -> Site:
    """Return the site that a configuration asks for.

    Raises:
        InputError: There is no such device or cluster, or it cannot measure what is asked for.
    """
    if config.table:
        return _InTable(config)
    return _OnCluster(config) if config.engine.kind == "ray" else _Here(config)


class _Here:
    def __init__(self, config: SearchConfig) -> None:
        self._config, self.measuring = config, device_grounds(config)

    def grounds(self, space: SearchSpace, request: DataRequest, before: Mapping[str, Any] | None) -> Grounds:
        found = real_grounds(self._config, self.measuring, space, request, before)
        self._places = found.places
        return found

    def engine(self, run_dir: Path) -> Callable[[], Engine]:
        if not self._places:
            return InlineEngine
        return partial(LocalEngine, self._places, run_dir / "workers", self._config.engine.timeout)


class _InTable:
    def __init__(self, config: SearchConfig) -> None:
        self._config, self.measuring = config, device_grounds(config)

    def grounds(self, space: SearchSpace, request: DataRequest, before: Mapping[str, Any] | None) -> Grounds:
        assert self._config.table is not None
        self._table = Table.read(self._config.table)
        return simulated_grounds(self._config, self.measuring, self._table)

    def engine(self, run_dir: Path) -> Callable[[], Engine]:
        return partial(SimulatedEngine, self._table, first_seed=self._config.seed)


class _OnCluster:
    def __init__(self, config: SearchConfig) -> None:
        cluster.connect(config.engine.address)
        self._nodes = cluster.nodes()
        self._shares = measuring, training = cluster.shares(config, self._nodes)
        cluster.staff(measuring, training, self._nodes, config.engine.workers)  # refuses before anything takes long
        share = measuring or training
        if config.measure.threads is None:
            config = replace(config, measure=replace(config.measure, threads=max(1, int(share.cpus))))
        self._config = config
        bearing = [node for node in self._nodes if cluster.bears(node, share)]
        found: list[DeviceGrounds] = cluster.ask(share, device_grounds, config, on=bearing)
        _check_equal(bearing, found)
        self.measuring = found[0]
        identity, threads = found[0].found.identity(), found[0].measured.threads
        self._kind = Kind(identity, threads, frozenset(node.id for node in bearing))

    def grounds(self, space: SearchSpace, request: DataRequest, before: Mapping[str, Any] | None) -> Grounds:
        measuring, training = self._shares
        if self._config.packing == "auto" and training.gpus == 1 and "num_gpus" not in (self._config.train_resources or {}):
            (each,) = cluster.ask(training, training_packing, self._config, space, request)
            self._config = replace(self._config, packing=each)
            measuring, training = cluster.shares(self._config, self._nodes)
        (found,) = cluster.ask(training, training_grounds, self._config, space, request, before)
        self._staff = staff = cluster.staff(measuring, training, self._nodes, self._config.engine.workers)
        self._trains_on = str(found.device)
        measurers = "" if staff.measuring is None else f", {staff.measurers} measure ({staff.measuring})"
        note = f"cluster: {len(self._nodes)} nodes; {staff.trainers} workers train ({staff.training}){measurers}"
        return joined_grounds(self.measuring, replace(found, notes=(*found.notes, note)))

    def engine(self, run_dir: Path) -> Callable[[], Engine]:
        devices = self.measuring.device, self._trains_on
        return partial(RayEngine, self._staff, Path.cwd(), devices, self._config.engine.timeout, self._kind)


def _check_equal(nodes: list[cluster.Node], found: list[DeviceGrounds]) -> None:
    """Refuse to measure on devices of several kinds: their figures must not stand on one front."""
    for node, there in zip(nodes[1:], found[1:], strict=True):
        if there.found.identity() != found[0].found.identity():
            one, other = (
                f"{grounds.found.agreed.name} on {where.host}" for where, grounds in ((nodes[0], found[0]), (node, there))
            )
            raise InputError(
                f"engine=ray: the nodes that would measure differ ({one}, {other}): start those of one kind with a resource of "
                "their own (ray start --resources='{\"edge_gpu\": 1}') and name it, measure.resources={edge_gpu: 1}."
            )
