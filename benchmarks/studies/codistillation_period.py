"""How long should two models train before they are exchanged? The study of codistillation, by period.

    nice -n 10 python -m benchmarks.studies.codistillation_period      # 64 seeds, some 15 core-minutes, two cores

The setting of `benchmarks.studies.codistillation` with the schedule of the weight decay. Periods from 4 steps to 200, a
quarter of the training; 50 are five time constants of momentum 0.9, the default here, and the paper's 2,500 steps
(Sodhani et al. 2020) some 250. What is measured is kept in `codistillation_period.jsonl` and is not measured again.

Stated before the runs, of the default period alone (50), paired by seed with all-reduce: accuracy within 0.5 points and
NLL within 0.01 (two one-sided tests at 5 %); distance moved from the start smaller than all-reduce's (two-sided). The
other periods are description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.studies.codistillation import MARGINS, METHODS, METRICS, SCHEDULE, UPDATES, run, values
from benchmarks.studies.common import arguments
from tune_platform.trainables.stats import equivalent, mean_interval, paired_difference
from tune_platform.trainables.studies.results import Found, Inputs, Results, measure
from tune_platform.trainables.studies.tables import markdown

PERIODS = (4, 8, 16, 25, 50, 100, 200)
REFERENCE, INDEPENDENT = "all-reduce", "independent (alpha 0)"
#: The one that the claims are about: max(share, 5 / (1 - momentum)).
DEFAULT = 50

Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def jobs(seeds: int, updates: int) -> list[dict[str, Any]]:
    """Return the trainings: all methods of the first seed, then of the second; seed 0 chose the setting."""
    names = [REFERENCE, INDEPENDENT, *map(str, PERIODS)]
    return [{"method": name, "updates": updates, "seed": seed} for seed in range(1, seeds + 1) for name in names]


def work(job: Inputs) -> Found:
    """Train once."""
    name = str(job["method"])
    by_period = {"strategy": {"name": "codistillation", **SCHEDULE, "period": int(name)}} if name.isdigit() else {}
    method = by_period or METHODS[name]
    return run(method, int(job["seed"]), int(job["updates"]))


def by_method(results: Results, updates: int) -> Runs:
    """Return the trainings of each method, of the seeds that all methods have."""
    found = {
        name: {row["seed"]: row for row in results.rows(method=name, updates=updates)}
        for name in (REFERENCE, INDEPENDENT, *map(str, PERIODS))
    }
    seeds = sorted(set.intersection(*(set(rows) for rows in found.values())))
    return {name: [rows[seed] for seed in seeds] for name, rows in found.items()}


def table(runs: Runs) -> str:
    """Return the paired differences to all-reduce by period, and the p of equivalence where there is a margin."""
    means = [f"{mean_interval(values(runs[REFERENCE], metric)).mean:.4f}" for metric in METRICS]
    rows = [[REFERENCE, *means, "", ""]]
    for name, each in runs.items():
        if name == REFERENCE:
            continue
        found = [paired_difference(values(each, metric), values(runs[REFERENCE], metric)) for metric in METRICS]
        p = [
            f"{equivalent(values(each, metric), values(runs[REFERENCE], metric), margin)[1]:.1g}"
            for metric, margin in MARGINS.items()
        ]
        rows.append([name, *(f"{one.mean:+.4f} ± {one.half:.4f}" for one in found), *p])
    titles = ["period", *METRICS.values(), *(f"p of ±{margin:g}" for margin in MARGINS.values())]
    return markdown(titles, rows)


def draw(runs: Runs) -> Any:
    """Return the differences to all-reduce by period, with their intervals."""
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
    for axis, (metric, label) in zip(axes, METRICS.items(), strict=True):
        reference = values(runs[REFERENCE], metric)
        found = [paired_difference(values(runs[str(period)], metric), reference) for period in PERIODS]
        if metric in MARGINS:
            axis.axhspan(-MARGINS[metric], MARGINS[metric], color="tab:green", alpha=0.15, lw=0)
        alone = paired_difference(values(runs[INDEPENDENT], metric), reference)
        axis.axhline(alone.mean, color="grey", ls="--", lw=1, label="independent models")
        axis.axhline(0, color="black", lw=0.8)
        axis.errorbar(PERIODS, [one.mean for one in found], yerr=[one.half for one in found], fmt="o-", ms=4, capsize=2)
        axis.axvline(DEFAULT, color="tab:orange", lw=0.8, ls=":", label="default")
        axis.set(xscale="log", xlabel="steps between exchanges", title=f"Δ {label}")
        axis.set_xticks(PERIODS, [str(period) for period in PERIODS], fontsize=7)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    count = len(runs[REFERENCE])
    figure.suptitle(f"Codistillation by period: difference to all-reduce, {count} paired seeds, 95 %", size=10)
    return figure


def main() -> None:
    """Run the study, on two cores."""
    given = arguments(__doc__, seeds=64)
    updates = 100 if given.quick else UPDATES
    results = Results(given.out / "codistillation_period.jsonl")
    measure(jobs(given.seeds, updates), work, results, processes=2)
    runs = by_method(results, updates)
    print(table(runs))
    draw(runs).savefig(given.out / "codistillation_period.png", dpi=110)


if __name__ == "__main__":
    main()
