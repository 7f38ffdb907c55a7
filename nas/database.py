"""Optuna's tables, read and written in bulk: its own way takes some sixty statements per trial. And how a server is reached.

What stands there is what Optuna 5 reads and writes itself; ``tests/test_gathering.py`` compares them.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb.models import (
    StudySystemAttributeModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialSystemAttributeModel,
    TrialUserAttributeModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial
from sqlalchemy import ColumnElement, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from nas.gathering import Gathered

_UPSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Databases in which many rows can be written at once whether they are there or not, and how."""

_MOST_NAMED = 500
"""Ids that one statement may name; databases bound their number."""

_LIBPQ = ("psycopg", "psycopg2")
"""Drivers that stand on PostgreSQL's own library."""

_REACHING: Mapping[str, int] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""That library's parameters, in seconds but for the last, in ms: that a server is gone is noticed in a minute, not in hours."""

_KEEP_ALIVE = (
    "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '3', false)"
)
"""Lets the server notice in its turn that a client's host is gone, whose locks would outlive it by hours. Over a Unix socket it
does nothing."""


def connect_args(url: str) -> dict[str, Any]:
    """Return what a connection to a PostgreSQL server is opened with, unless the URL itself says it; nothing for others."""
    made = sqlalchemy.make_url(url)
    if made.get_backend_name() != "postgresql" or made.get_driver_name() not in _LIBPQ:
        return {}
    return {key: value for key, value in _REACHING.items() if key not in made.query}


def keep_alive(engine: sqlalchemy.Engine) -> None:
    """Let a PostgreSQL server watch over all connections that an engine opens; those that it has are closed."""
    if engine.dialect.name != "postgresql" or engine.dialect.driver not in _LIBPQ:
        return

    def ask(connection: Any, _: Any) -> None:
        # A server that does not know it, or something between that lets it not pass, is as good as it was before.
        with contextlib.suppress(Exception):
            connection.cursor().execute(_KEEP_ALIVE)
            connection.commit()
            return
        with contextlib.suppress(Exception):
            connection.rollback()

    sqlalchemy.event.listen(engine, "connect", ask)
    engine.dispose()


def writes_at_once(dialect: str) -> bool:
    """Whether ``write_gathered`` knows a kind of database."""
    return dialect in _UPSERTS


def write_gathered(session: Session, gathered: Gathered, dialect: str) -> set[int]:
    """Write what was gathered of the trials that are not finished, and return the ids of those that are."""
    query = select(TrialModel).where(TrialModel.trial_id.in_(gathered.trials))
    trials = {int(trial.trial_id): trial for trial in session.scalars(query.with_for_update())}
    finished = {trial_id for trial_id, trial in trials.items() if trial.state.is_finished()}

    def put(model: Any, rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
        rows = [row for row in rows if row.get("trial_id") not in finished]
        if rows:
            statement = _UPSERTS[dialect](model)
            changed = {key: statement.excluded[key] for key in rows[0] if key not in keys}
            session.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)

    for model, attrs in ((TrialUserAttributeModel, gathered.user_attrs), (TrialSystemAttributeModel, gathered.system_attrs)):
        rows = [{"trial_id": trial_id, "key": key, "value_json": text} for (trial_id, key), text in attrs.items()]
        put(model, rows, ("trial_id", "key"))
    params = [
        {"trial_id": trial_id, "param_name": name, "param_value": value, "distribution_json": distribution_to_json(distribution)}
        for (trial_id, name), (value, distribution) in gathered.params.items()
    ]
    put(TrialParamModel, params, ("trial_id", "param_name"))
    kept = [{"study_id": study, "key": key, "value_json": text} for (study, key), text in gathered.study_attrs.items()]
    put(StudySystemAttributeModel, kept, ("study_id", "key"))
    values: list[dict[str, Any]] = []
    for trial_id, (_, told, _) in gathered.states.items():
        for objective, value in enumerate(told or ()):
            stored, kind = TrialValueModel.value_to_stored_repr(value)
            values.append({"trial_id": trial_id, "objective": objective, "value": stored, "value_type": kind})
    put(TrialValueModel, values, ("trial_id", "objective"))
    for trial_id, (state, _, ended_at) in gathered.states.items():
        if trial_id not in finished:
            trials[trial_id].state, trials[trial_id].datetime_complete = state, ended_at
    return finished


def named(trial_id: int) -> ColumnElement[bool]:
    """Return what holds for the trial of an id."""
    return TrialModel.trial_id == trial_id


def new_or_among(study_id: int, after: int, among: Collection[int]) -> ColumnElement[bool]:
    """Return what holds for a study's trials whose id is above ``after``, and for those of ``among``."""
    here: ColumnElement[bool] = TrialModel.study_id == study_id
    if after < 0:
        return here
    old = [trial_id for trial_id in among if trial_id <= after]
    if len(old) > _MOST_NAMED:  # some more of them do no harm
        return sqlalchemy.and_(here, TrialModel.trial_id >= min(old))
    return sqlalchemy.and_(here, sqlalchemy.or_(TrialModel.trial_id > after, TrialModel.trial_id.in_(old)))


def read_trials(session: Session, condition: ColumnElement[bool]) -> list[FrozenTrial]:
    """Return the trials for which a condition on ``TrialModel`` holds, by id."""

    def details(*columns: Any) -> defaultdict[int, list[Any]]:
        """Read a table's columns, of which the first one orders the rows, by trial."""
        order, trial_id, *others = columns
        query = select(trial_id, *others).join(TrialModel, TrialModel.trial_id == trial_id).where(condition).order_by(order)
        found = defaultdict(list)
        for row in session.execute(query):
            found[row[0]].append(row[1:])
        return found

    # First: what belongs to a trial that is finished has been written by then, and another process may finish one meanwhile.
    rows = session.scalars(select(TrialModel).where(condition).order_by(TrialModel.trial_id)).all()
    P, V, I = TrialParamModel, TrialValueModel, TrialIntermediateValueModel  # noqa: E741
    params = details(P.param_id, P.trial_id, P.param_name, P.param_value, P.distribution_json)
    values = details(V.objective, V.trial_id, V.value, V.value_type)
    steps = details(I.trial_intermediate_value_id, I.trial_id, I.step, I.intermediate_value, I.intermediate_value_type)
    attributes = [
        details(model.trial_id, model.trial_id, model.key, model.value_json)
        for model in (TrialUserAttributeModel, TrialSystemAttributeModel)
    ]
    trials = []
    trial: Any  # its columns are typed as columns, not as what they hold
    for trial in rows:
        at = int(trial.trial_id)
        domains = {sys.intern(name): _distribution(text) for name, _, text in params.get(at, ())}
        user_attrs, system_attrs = (
            {sys.intern(key): json.loads(text) for key, text in found.get(at, ())} for found in attributes
        )
        trials.append(
            FrozenTrial(
                number=trial.number,
                state=trial.state,
                value=None,
                values=[TrialValueModel.stored_repr_to_value(*stored) for stored in values[at]] if at in values else None,
                datetime_start=trial.datetime_start,
                datetime_complete=trial.datetime_complete,
                params={name: domains[name].to_external_repr(value) for name, value, _ in params.get(at, ())},
                distributions=domains,
                user_attrs=user_attrs,
                system_attrs=system_attrs,
                intermediate_values={
                    step: TrialIntermediateValueModel.stored_repr_to_intermediate_value(*stored)
                    for step, *stored in steps.get(at, ())
                },
                trial_id=at,
            )
        )
    return trials


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    # One for all trials: read anew for each, they would take most of the memory of a long study.
    return json_to_distribution(text)
