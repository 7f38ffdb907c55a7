"""The plots of a study that optuna-dashboard shows among its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from nas.analyse.study.course import course_figures
from nas.analyse.study.fronts import front_figures
from nas.analyse.study.population import Population
from nas.metrics import Metric
from nas.outcomes import Outcome

_PAIRS = 3


def study_plots(
    outcomes: Sequence[Outcome],
    references: Sequence[Outcome],
    objectives: Sequence[Metric],
    constraints: Mapping[str, float],
    validation_images: int | None = None,
) -> dict[str, go.Figure]:
    """Return the fronts of the first pairs of objectives and the hypervolume over trials, by names that stay the same."""
    population = Population(tuple(outcomes), tuple(references), tuple(objectives), constraints, validation_images)
    found = {f"front-{number}": figure for number, figure in enumerate(front_figures(population)[:_PAIRS], start=1)}
    found["hypervolume"] = course_figures(population)[0]
    plots = {}
    for name, figure in found.items():
        if figure.plot is not None:
            plots[name] = figure.plot.update_layout(
                title={"text": figure.title}, margin={"t": 50}, showlegend=name != "hypervolume"
            )
            if name != "hypervolume":
                figure.plot.update_yaxes(range=None, autorange=True)  # here no note says that some lie outside
    return plots
