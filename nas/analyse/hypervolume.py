"""The hypervolume that a front dominates: one number for how good a set of trade-offs is; minimises like ``front``."""

from __future__ import annotations

import numpy as np

from nas.analyse.front import Array, non_dominated


def hypervolume(values: Array, reference: Array) -> float:
    """Return the volume between the points and a reference point that is worse than the front in every objective.

    Exact, by slicing (HSO, While et al. 2006, doi:10.1109/TEVC.2005.851275): between two neighbouring values of the last
    objective, the slice is as thick as their difference, and as large as the volume of the points below it in the others.

    Args:
        values: Shape (n, m), to be minimised; points that are not better than the reference everywhere add nothing.
        reference: Shape (m,).
    """
    inside = values[(values < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    return _slices(inside, reference)


def _slices(points: Array, reference: Array) -> float:
    points = points[non_dominated(points)]
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    thickness = np.diff(np.append(points[:, -1], reference[-1]))
    if points.shape[1] == 3:
        return float((_areas_of_prefixes(points[:, :2], reference) * thickness).sum())
    below = [_slices(points[: index + 1, :-1], reference[:-1]) if thickness[index] else 0.0 for index in range(len(points))]
    return float((np.array(below) * thickness).sum())


def _areas_of_prefixes(points: Array, reference: Array) -> Array:
    """Area that the first k of n points dominate in two objectives, for every k from 1 to n; shape (n,)."""
    order = np.argsort(points[:, 0], kind="stable")
    x, y = points[order, 0], points[order, 1]
    in_prefix = order[None, :] <= np.arange(len(points))[:, None]
    lowest = np.minimum.accumulate(np.where(in_prefix, y, reference[1]), axis=1)
    widths = np.diff(np.append(x, reference[0]))
    areas: Array = (reference[1] - lowest) @ widths
    return areas


def normalised_hypervolume(values: Array) -> float:
    """Return the hypervolume as a share of the box between the best and the worst value seen in each objective.

    Args:
        values: Shape (n, m), all trials that count, to be minimised.

    Returns:
        0 to 1; 0 if fewer than two different values were seen in some objective.
    """
    if len(values) < 2:
        return 0.0
    best, worst = values.min(axis=0), values.max(axis=0)
    if (worst <= best).any():
        return 0.0
    return hypervolume((values - best) / (worst - best), np.ones(values.shape[1]))
