"""Whether the order of brief scores is right, on a table of really evaluated networks: a section of ``search_efficiency.py``."""

from __future__ import annotations

import statistics

from rich.table import Table as Printed

from nas.analyse.ranking import Proxy, judge
from nas.lookup import Row, Table


def proxies(row: Row, epoch: int) -> dict[str, float]:
    """Return each proxy's score after an epoch of the first training, higher is better."""
    late = [row.top1[past - 1] for past in range(1, epoch + 1) if past > epoch * 2 / 3]
    return {
        "top1": row.top1[epoch - 1],
        "top1_mean": statistics.fmean(late),
        "train_loss": -row.train_loss[epoch - 1],
        "train_loss_area": -statistics.fmean(row.train_loss[:epoch]),
    }


def order(table: Table) -> tuple[str, Printed]:
    """Return what is compared, and each proxy's agreement with the final accuracy after each epoch."""
    several = [row for row in table.rows.values() if row.top1_seeds]
    rows = several or list(table.rows.values())
    # The proxies are the first seed's: where there are others, they alone are the truth.
    truth = [statistics.fmean(course[-1] for course in (row.top1_seeds or [row.top1])) for row in rows]
    printed = Printed(
        *("epochs", "proxy", "Spearman", "95 % interval", "Kendall", "95 % interval"),
        *("above top1 of that epoch", "points lost by its first"),
        box=None,
    )
    for epoch in range(1, table.recipe.epochs + 1):
        scores = [proxies(row, epoch) for row in rows]
        candidates = [Proxy(name, epoch / table.recipe.epochs, None, tuple(s[name] for s in scores)) for name in scores[0]]
        for one in judge(candidates, truth):
            rho, tau = (
                ("–", "–") if found is None else (f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}")
                for found in (one.spearman, one.kendall)
            )
            better = "–" if one.better is None else f"{one.better:.0%} of draws"
            printed.add_row(str(epoch), one.proxy.name, *rho, *tau, better, f"{100 * one.regret:.2f}")
    against = (
        f"the mean final top1 of further seeds ({min(len(row.top1_seeds) for row in rows)} or more)"
        if several
        else "the final top1 of the same training, for want of further seeds: the later epochs are compared with themselves"
    )
    told = f"\nIs the order of the brief proxies right? Those of the first seed against {against}, over {len(rows)} networks"
    return told, printed
