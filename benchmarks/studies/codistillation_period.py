"""How long should two models train before they are exchanged? The study of codistillation, by period.

    nice -n 10 python -m benchmarks.studies.codistillation_period      # 32 seeds, some 2 core-minutes, two cores

The setting of `benchmarks.studies.codistillation` with the schedule of the weight decay, and the same margins. Periods:
8 steps, which is 1 % of this training and less than one time constant of momentum 0.9 (10 steps); 50, five of them,
the default here; 100. The paper's 2,500 steps (Sodhani et al. 2020) are some 250.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from benchmarks.studies.codistillation import (
    MARGINS,
    METHODS,
    METRICS,
    SCHEDULE,
    UPDATES,
    Runs,
    differences,
    run_all,
    values,
)
from benchmarks.studies.common import arguments, markdown
from tune_platform.trainables.stats import equivalent

PERIODS = (8, 50, 100)
REFERENCE = "all-reduce"


def methods() -> dict[str, Mapping[str, Any]]:
    """Return all-reduce, and codistillation by its period."""
    found: dict[str, Mapping[str, Any]] = {REFERENCE: METHODS[REFERENCE]}
    for period in PERIODS:
        found[str(period)] = {"strategy": {"name": "codistillation", **SCHEDULE, "period": period}}
    return found


def table(runs: Runs) -> str:
    """Return the paired differences to all-reduce by period, and the p of equivalence where there is a margin."""
    rows = []
    for period, found in differences(runs).items():
        each = [f"{found[metric].mean:+.4f} ± {found[metric].half:.4f}" for metric in METRICS]
        p = [
            f"{equivalent(values(runs[period], metric), values(runs[REFERENCE], metric), margin)[1]:.2g}"
            for metric, margin in MARGINS.items()
        ]
        rows.append([period, *each, *p])
    return markdown(["period", *METRICS.values(), *(f"p of ±{margin:g}" for margin in MARGINS.values())], rows)


def main() -> None:
    """Run the study, on two cores."""
    given = arguments(__doc__, seeds=32)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        print(table(run_all(pool, methods(), given.seeds, 100 if given.quick else UPDATES)))


if __name__ == "__main__":
    main()
