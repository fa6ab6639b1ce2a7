"""Freeze-thaw against ASHA and no scheduler: random configs, real curves, one virtual clock.

    python -m benchmarks.studies.freeze_thaw              # four tables, 8 workers, 10 seeds: some 4 minutes
    python -m benchmarks.studies.freeze_thaw --seeds 3

Each run has 60 full trainings' worth of worker time. Shown are the share of it until the best 1 % of the table's
configs was reached (1: not within it), and in how many of the seeds freeze-thaw was the sooner of the two or the later.
"""

from __future__ import annotations

import argparse
from statistics import fmean

import numpy as np

from benchmarks.search_quality import CURVES, ours
from tune_platform.curves.table import CurveTable

WORKERS, TRAININGS = 8, 60


def race(table: CurveTable, seed: int) -> dict[str, float]:
    """Return the share of the time that each took to the best 1 %."""
    sign = 1.0 if table.mode == "min" else -1.0
    finals = np.nanmin(sign * table.values[table.metric], axis=1)
    goal = sign * float(np.quantile(finals, 0.01, method="higher"))
    seconds = float(np.nansum(table.seconds, axis=1).mean()) * TRAININGS / WORKERS
    options = {"resource": table.resource, "max": table.steps}
    found = {}
    for name in ("fifo", "asha", "freeze_thaw"):
        scheduler = {"name": name, **(options if name != "fifo" else {})}
        outcome = ours(table, WORKERS, seconds, seed, {"searcher": "random", "scheduler": scheduler})
        when = outcome.reached(goal, table.mode)
        found[name] = 1.0 if when is None else min(when / seconds, 1.0)
    return found


def main() -> None:
    """Race on all tables, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    print("| table | no scheduler | `asha` | `freeze_thaw` | sooner than `asha` | later |")
    print("|---|---|---|---|---|---|")
    for path in sorted(CURVES.glob("*.npz")):
        table = CurveTable.load(path)
        runs = [race(table, seed) for seed in range(seeds)]
        means = [f"{fmean(run[name] for run in runs):.2f}" for name in ("fifo", "asha", "freeze_thaw")]
        sooner = sum(run["freeze_thaw"] < run["asha"] for run in runs)
        later = sum(run["freeze_thaw"] > run["asha"] for run in runs)
        print(f"| {path.stem} | {' | '.join(means)} | {sooner} of {seeds} | {later} of {seeds} |", flush=True)


if __name__ == "__main__":
    main()
