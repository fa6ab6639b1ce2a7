"""The study's tables as Markdown, in the columns of Yang et al. (2020): means over seeds with 95 % t intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune_platform.trainables.robustness.claims import Runs, judge
from tune_platform.trainables.stats import Interval, mean_interval

#: Column heads and metrics; all but the Lipschitz constants are shown in percent.
COLUMNS = (
    ("train", "train_accuracy"),
    ("test", "test_accuracy"),
    ("adv. train", "train_adv_accuracy"),
    ("adv. test (PGD)", "test_adv_accuracy"),
    ("adv. test (MT)", "test_mt_accuracy"),
    ("test Lipschitz", "test_lipschitz"),
    ("gap", "gap"),
    ("adv. gap", "adv_gap"),
)


def markdown(results: Mapping[str, Any]) -> str:
    """Return all tables of a study, one under the other."""
    runs = Runs(results)
    parts = [
        ("Separation", separation_table(runs)),
        ("Methods", methods_table(runs)),
        ("Dropout", dropout_table(runs)),
        ("Dropout where robust training overfits", dropout_table(runs, "overfit")),
        ("Released code", released_table(runs)),
        ("Claims", claims_table(results)),
    ]
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts if text) + "\n"


def separation_table(runs: Runs) -> str:
    """Smallest and mean distances to another class beside twice the radius, and the classifier of theorem 1."""
    eps = float(runs.plan["base"]["eps"])
    rows = []
    for name, head in (
        ("train_train", "train - train"),
        ("test_train", "test - train"),
        ("random_labels", "train - train, random labels"),
    ):
        smallest = runs.apart(f"{name}_min")
        rows.append(
            [head, f"{min(smallest):.4g} ... {max(smallest):.4g}", _cell(mean_interval(runs.apart(f"{name}_mean"))),
             f"{2 * eps:g}", f"{sum(value > 2 * eps for value in smallest)} of {len(smallest)}"]
        )  # fmt: skip
    first = _table(["distances (L-infinity)", "smallest, over seeds", "mean", "2 eps", "separated"], rows)
    rows = [
        [head, *(_percent(runs.apart(f"{name}_test_{metric}")) for metric in ("accuracy", "adv_accuracy", "certified")),
         _cell(mean_interval(runs.apart(f"{name}_test_lipschitz")))]
        for name, head in (("theorem", "all images (theorem 1)"), ("nearest", "training images only"))
    ]  # fmt: skip
    second = _table(["nearest class by", "test", "adv. test (PGD)", "adv. test (proved)", "test Lipschitz"], rows)
    return f"{first}\n\n{second}"


def methods_table(runs: Runs) -> str:
    """The paper's table 2."""
    rows = [[method, *_row(runs, "methods", method)] for method in runs.methods("methods")]
    return _table(["method", *(head for head, _ in COLUMNS)], rows)


def dropout_table(runs: Runs, table: str = "dropout") -> str:
    """The paper's table 4: each method without and with dropout."""
    rows = [
        [method, f"{rate:g}", *_row(runs, table, method, rate)]
        for method in runs.methods(table)
        for rate in runs.rates(table)
    ]
    return _table(["method", "dropout", *(head for head, _ in COLUMNS)], rows) if rows else ""


def released_table(runs: Runs) -> str:
    """What the defects of the released code do: to two losses, and to the estimate of the Lipschitz constant."""
    metrics = ("test_accuracy", "test_adv_accuracy", "test_mt_accuracy")
    rows = [
        [name, *(_percent(runs.values(table, name, metric)) for metric in metrics),
         _cell(mean_interval(runs.values(table, name, "test_lipschitz"))),
         _cell(mean_interval(runs.values(table, name, "test_lipschitz_released")))]
        for table in ("methods", "released")
        for name in runs.methods(table)
    ]  # fmt: skip
    heads = ["method", "test", "adv. test (PGD)", "adv. test (MT)", "Lipschitz", "Lipschitz, released estimator"]
    return _table(heads, rows)


def claims_table(results: Mapping[str, Any]) -> str:
    """Every statistical claim with its effect, interval, corrected p and verdict."""
    rows = [
        [each.claim.source, each.claim.text, each.claim.effect, str(each.claim.interval),
         "-" if math.isnan(each.p) else f"{each.p:.2g}", each.verdict]
        for each in judge(results)
    ]  # fmt: skip
    heads = ["where", "claim", "effect", "mean [95 % interval]", "p (Holm)", "here"]
    return _table(heads, rows) if rows else "Fewer than two seeds: there are no intervals."


def _row(runs: Runs, table: str, method: str, dropout: float = 0.0) -> list[str]:
    return [
        _cell(mean_interval(values)) if "lipschitz" in metric else _percent(values)
        for values, metric in ((runs.values(table, method, metric, dropout), metric) for _, metric in COLUMNS)
    ]


def _percent(values: Sequence[float]) -> str:
    return _cell(mean_interval([100 * value for value in values]), 1)


def _cell(interval: Interval, places: int | None = None) -> str:
    """Mean and half the interval; without `places`, two decimals below ten and one above."""
    if places is None:
        places = 2 if abs(interval.mean) < 10 else 1
    if math.isnan(interval.low):
        return f"{interval.mean:.{places}f}"
    return f"{interval.mean:.{places}f} ± {interval.half:.{places}f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
