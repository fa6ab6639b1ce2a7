"""The claims of Yang et al. (2020), each as a test that can fail, judged on the results of the study.

A claim about an order is a paired comparison over seeds (`trainables/stats.py`), two-sided; Holm's rule corrects each
family of claims (methods, correlation, dropout, released code). A claim *shows* where the corrected p is below 0.05 and
the effect has the claimed sign, its *reverse shows* where it has the other, and otherwise it *does not show*: that says
nothing of larger networks or other data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from tune_platform.trainables.robustness.plan import RELEASED, VARIANTS
from tune_platform.trainables.stats import Interval, holm, mean_interval, paired_difference, paired_ratio

_LEVEL = 0.05
#: Robustness is judged by the stronger of the two attacks: PGD alone flatters what bends gradients (GR, LLR).
_JUDGED = "accuracy under MultiTargeted, points"
#: Tables whose cells are compared with each other's.
_COMPARED = ("methods", "released")
Ranks = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of the paper, the effect measured here, and whether the claimed sign is the positive one."""

    source: str
    text: str
    effect: str
    interval: Interval
    null: float = 0.0
    positive: bool = True

    def verdict(self, p: float) -> str:
        """Return the judgement at a corrected p."""
        if math.isnan(p) or p >= _LEVEL:
            return "does not show"
        return "shows" if (self.interval.mean > self.null) == self.positive else "the reverse shows"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim with its corrected p and its verdict."""

    claim: Claim
    p: float
    verdict: str


class Runs:
    """The results of the study by table, method and dropout, always in the order of the seeds."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.runs: Sequence[Mapping[str, Any]] = list(results["runs"])
        self.separation: Mapping[str, Mapping[str, float]] = results["separation"]
        self.plan: Mapping[str, Any] = results["plan"]
        #: The seeds of each table that all its cells have: those of a study that was cut short too.
        self.table_seeds: dict[str, list[int]] = {}
        for table in {run["table"] for run in self.runs}:
            group = _COMPARED if table in _COMPARED else (table,)
            per_cell: dict[tuple[Any, ...], set[int]] = {}
            for run in self.runs:
                if run["table"] in group:
                    per_cell.setdefault((run["table"], run["method"], run["dropout"]), set()).add(run["seed"])
            self.table_seeds[table] = sorted(set.intersection(*per_cell.values()))
        self.seeds = self.table_seeds.get("methods", [])

    def values(self, table: str, method: str, metric: str, dropout: float = 0.0) -> list[float]:
        """Return one value for each seed; none where the study has no such cell."""
        found = {
            run["seed"]: float(run[metric])
            for run in self.runs
            if (run["table"], run["method"], run["dropout"]) == (table, method, dropout)
        }
        return [found[seed] for seed in self.table_seeds.get(table, []) if seed in found]

    def methods(self, table: str) -> list[str]:
        """Return the methods of a table, in its order."""
        return list(dict.fromkeys(run["method"] for run in sorted(self.runs, key=_order) if run["table"] == table))

    def rates(self, table: str = "dropout") -> list[float]:
        """Return the dropout rates of a table on dropout."""
        return sorted({run["dropout"] for run in self.runs if run["table"] == table})

    def apart(self, metric: str) -> list[float]:
        """Return one value of the separation for each seed."""
        return [self.separation[str(seed)][metric] for seed in self.seeds]


def judge(results: Mapping[str, Any]) -> list[Judged]:
    """Return all statistical claims, judged. Empty with fewer than two seeds, where there is no interval."""
    runs = Runs(results)
    if len(runs.seeds) < 2:
        return []
    judged = []
    families = (
        _on_methods(runs),
        _on_correlation(runs),
        _on_dropout(runs, "dropout", "robust training"),
        _on_dropout(runs, "overfit", "robust training that overfits"),
        _on_released(runs),
    )
    for family in families:
        corrected = holm([1.0 if math.isnan(claim.interval.p) else claim.interval.p for claim in family])
        judged += [
            Judged(claim=claim, p=p, verdict=claim.verdict(p)) for claim, p in zip(family, corrected, strict=True)
        ]
    return judged


def _on_methods(runs: Runs) -> list[Claim]:
    known = runs.methods("methods")

    def difference(a: str, b: str, metric: str) -> Interval:
        return _points(runs.values("methods", a, metric), runs.values("methods", b, metric))

    def lower_lipschitz(a: str, b: str) -> Claim:
        text = f"{a} has a lower local Lipschitz constant than {b}"
        ratio = paired_ratio(runs.values("methods", b, "test_lipschitz"), runs.values("methods", a, "test_lipschitz"))
        return Claim(source="table 2", text=text, effect=f"{b} / {a}", interval=ratio, null=1.0)

    def more_robust(a: str, b: str) -> Claim:
        text, interval = f"{a} is more robust than {b}", difference(a, b, "test_mt_accuracy")
        return Claim(source="table 2", text=text, effect=_JUDGED, interval=interval)

    pairs = [(a, "Natural") for a in known if a != "Natural"]
    pairs += [("TRADES 3", "TRADES 1"), ("TRADES 6", "TRADES 3")]
    claims = [claim(a, b) for a, b in pairs if {a, b} <= set(known) for claim in (lower_lipschitz, more_robust)]
    for name in [each for each in ("GR", "LLR") if {"AT", each} <= set(known)]:
        lost = [
            [pgd - mt for pgd, mt in zip(*(runs.values("methods", each, f"test_{attack}_accuracy")
                                           for attack in ("adv", "mt")), strict=True)]
            for each in (name, "AT")
        ]  # fmt: skip
        text = f"PGD alone flatters {name} more than AT"
        claims += [
            more_robust("AT", name),
            Claim(source="table 2", text=text, effect="PGD - MultiTargeted, points", interval=_points(*lost)),
        ]
    for name in [each for each in ("AT", "TRADES 6") if each in known]:
        for metric, text, effect, a, b in (
            ("test_accuracy", f"{name} is less accurate than Natural", "Natural's lead, points", "Natural", name),
            ("gap", f"{name} has a larger clean gap than Natural", "gap, points", name, "Natural"),
            ("adv_gap", f"{name} has a larger adversarial gap than Natural", "gap, points", name, "Natural"),
        ):
            claims.append(Claim(source="section 5", text=text, effect=effect, interval=difference(a, b, metric)))
    return claims


def _on_correlation(runs: Runs) -> list[Claim]:
    known = runs.methods("methods")
    if len(known) < 3:
        return []

    def correlation(a: str, b: str) -> Interval:
        columns = [[runs.values("methods", method, metric) for method in known] for metric in (a, b)]
        ranks = [[rankdata([row[i] for row in column]) for i in range(len(runs.seeds))] for column in columns]
        return mean_interval([_correlation(*pair) for pair in zip(*ranks, strict=True)])

    claims = []
    for source, text, a, b, positive in (
        ("section 4", "Lower Lipschitz constants go with robustness", "test_lipschitz", "test_adv_accuracy", False),
        ("section 4", "Lower Lipschitz constants go with robustness (MT)", "test_lipschitz", "test_mt_accuracy", False),
        ("released code", "The order of the methods survives the estimator's wrong sign", "test_lipschitz",
         "test_lipschitz_released", True),
    ):  # fmt: skip
        effect = f"Spearman's rho over {len(known)} methods"
        interval = correlation(a, b)
        claims.append(Claim(source=source, text=text, effect=effect, interval=interval, positive=positive))
    return claims


def _correlation(a: Ranks, b: Ranks) -> float:
    """Return the correlation of two rankings (Spearman's of the values); 0 where one has no order."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else 0.0


def _on_dropout(runs: Runs, table: str, training: str) -> list[Claim]:
    """The claim is about robust training, not about one method: a seed's effect is the mean over the robust methods."""
    robust = [method for method in runs.methods(table) if method != "Natural"]
    if not robust:
        return []

    def pooled(metric: str, rate: float) -> list[float]:
        columns = [runs.values(table, method, metric, rate) for method in robust]
        logs = metric == "test_lipschitz"  # the geometric mean of a ratio
        return [fmean(math.log(value) if logs else 100 * value for value in row) for row in zip(*columns, strict=True)]

    claims = []
    for rate in [rate for rate in runs.rates(table) if rate > 0]:
        for metric, says, positive in (
            ("adv_gap", "shrinks the adversarial gap", False),
            ("gap", "shrinks the clean gap", False),
            ("test_accuracy", "raises the test accuracy", True),
            ("test_mt_accuracy", "raises the adversarial test accuracy", True),
            ("test_lipschitz", "lowers the local Lipschitz constant", False),
        ):
            interval = paired_difference(pooled(metric, rate), pooled(metric, 0.0))
            unit = "logarithm" if metric == "test_lipschitz" else "points"
            text, effect = f"Dropout {rate:g} {says} of {training}", f"p = {rate:g} - p = 0, {unit}"
            claims.append(Claim(source="table 4", text=text, effect=effect, interval=interval, positive=positive))
    return claims


def _on_released(runs: Runs) -> list[Claim]:
    """What the defects of the released losses change: not a claim of the paper's, but one about its code."""
    claims = []
    for name in ("GR", "LLR"):
        if f"{name} released" in runs.methods("released"):
            pair = (
                runs.values("released", f"{name} released", "test_mt_accuracy"),
                runs.values("methods", name, "test_mt_accuracy"),
            )
            text = f"The released {name} is less robust than the right one"
            claims.append(
                Claim(source="released code", text=text, effect=_JUDGED, interval=_points(*pair), positive=False)
            )
    return claims


def _points(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Return the paired difference in percentage points."""
    return paired_difference([100 * value for value in a], [100 * value for value in b])


def _order(run: Mapping[str, Any]) -> tuple[int, str]:
    names = [*VARIANTS, *RELEASED]
    return names.index(run["method"]), run["method"]
