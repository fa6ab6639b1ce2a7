"""Where the forces between workers stand still: a double well, and the curse of symmetry in matrix factorisation.

Re-tests what Teng et al. (2019, section 3) say of elastic averaging: its objective has stationary points that are none
of the loss, and where minima are symmetric the mean of the workers lies between them and holds all of them back; a
leader is itself a good place and holds nobody back. Gradients are exact, exchanges take place at every step.

    python -m benchmarks.studies.symmetry [--quick] [--seeds N] [--out FOLDER]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.studies.common import Stopwatch, arguments, save, spread, training
from benchmarks.studies.surfaces import DoubleWell, Factorisation
from tune_platform.trainables.runtime import generator
from tune_platform.trainables.studies.tables import markdown

#: The double well: rate, penalty of the objective, and the pull that belongs to them, alpha = eta rho.
WELL_RATE, PENALTY = 0.1, 0.5
WELL_PULL = WELL_RATE * PENALTY
#: The factorisation, as in the reference: M of 50 x 50 with norm 1, ten workers, pull 0.05 a step.
SIZE, WORKERS, RATE, PULL = 50, 10, 0.3, 0.05
RANKS = (1, 2, 5)
#: A worker below this has arrived: M has norm 1, and the numbers 16 digits.
ARRIVED = 1e-12
LSGD, EASGD, NONE = "LSGD", "EASGD", "none"


def strategies(workers: int, pull: float) -> dict[str, dict[str, Any]]:
    """Return the three methods with the same pull a step; all workers begin at places of their own.

    With a window of one loss, and that exact, the leader is the worker that was best before its last step.
    """
    common = {"period": 1, "init": "different"}
    leader = {**common, "name": "lsgd", "window": 1, "evaluate": "leader"}
    return {
        LSGD: {**leader, "pull": pull},
        EASGD: {**common, "name": "easgd", "beta": workers * pull},
        NONE: {**leader, "pull": 0.0},
    }


class Wells(NamedTuple):
    """A training of two workers in the double well."""

    starts: Sequence[float]
    strategy: Mapping[str, Any]
    steps: int
    every: int


class Factors(NamedTuple):
    """A training of ten workers to factorise a matrix."""

    rank: int
    strategy: Mapping[str, Any]
    seed: int
    steps: int
    every: int


def wells(job: Wells) -> list[dict[str, Any]]:
    """Train; return the reports."""
    config = {
        "starts": list(job.starts), "lr": WELL_RATE, "updates": job.steps, "report_every": job.every,
        "strategy": job.strategy,
    }  # fmt: skip
    return list(training(DoubleWell, config, len(job.starts), 0))


def factorise(job: Factors) -> list[dict[str, Any]]:
    """Train; return the reports."""
    config = {
        "size": SIZE, "rank": job.rank, "lr": RATE, "updates": job.steps, "report_every": job.every,
        "strategy": job.strategy,
    }  # fmt: skip
    return list(training(Factorisation, config, WORKERS, job.seed))


def double_well(seeds: int, steps: int) -> tuple[list[list[object]], dict[str, Any]]:
    """Begin at random pairs of places; count where the better worker comes to rest, by whether it is a minimum of f."""
    draws = generator("cpu", 0, "double well")
    pairs = ((torch.rand(seeds, 2, generator=draws, dtype=torch.float64) - 0.5) * 4).tolist()
    table: list[list[object]] = []
    ends: dict[str, Any] = {"starts": pairs}
    for name, strategy in strategies(2, WELL_PULL).items():
        last = [each[-1] for each in spread(wells, [Wells(pair, strategy, steps, steps) for pair in pairs])]
        ends[name] = [{key: each[key] for key in ("places", "losses", "gradient_norms")} for each in last]
        for side, wanted in (("opposite sides", True), ("same side", False)):
            chosen = [each for each, (a, b) in zip(last, pairs, strict=True) if (a * b < 0) is wanted]
            best = [min(zip(each["losses"], each["gradient_norms"], strict=True)) for each in chosen]
            stuck = sum(slope > 1e-6 for _, slope in best)
            worst = max((slope for _, slope in best), default=float("nan"))
            table.append([name, side, f"{len(best) - stuck} of {len(best)}", f"{worst:.1e}"])
    return table, ends


def main() -> None:
    """Run the study."""
    given, watch = arguments(__doc__, seeds=8), Stopwatch()
    steps, every = (60, 20) if given.quick else (240, 20)

    table, ends = double_well(2 * given.seeds, steps)
    print(f"double well, rate {WELL_RATE}, pull {WELL_PULL} a step, two workers, {steps} steps\n")
    print(markdown(["method", "workers begin on", "better one ends in a minimum", "largest |f'| of it"], table), "\n")

    curves: dict[int, dict[str, list[list[dict[str, Any]]]]] = {}
    table = []
    methods = strategies(WORKERS, PULL)
    todo = [(rank, name) for rank in (RANKS[:1] if given.quick else RANKS) for name in methods]
    jobs = [Factors(rank, methods[name], seed, steps, every) for rank, name in todo for seed in range(given.seeds)]
    done = spread(factorise, jobs)
    for number, (rank, name) in enumerate(todo):
        runs = done[number * given.seeds : (number + 1) * given.seeds]
        curves.setdefault(rank, {})[name] = runs
        best, worst = ([choose(run[-1]["losses"]) for run in runs] for choose in (min, max))
        count = sum(loss < ARRIVED for loss in best)
        everybody = sum(loss < ARRIVED for loss in worst)
        table.append([
            rank, name, f"{count} of {len(runs)}", f"{np.median(best):.0e}", f"{max(best):.0e}",
            f"{everybody} of {len(runs)}", f"{np.median(worst):.0e}",
        ])  # fmt: skip
    print(f"factorisation of a {SIZE} x {SIZE} matrix, {WORKERS} workers, pull {PULL} a step, {steps} steps\n")
    titles = ["rank", "method", "best worker arrives", "its loss, median", "largest", "all arrive", "worst, median"]
    print(markdown(titles, table), "\n")

    pulls = strategies(2, WELL_PULL)
    paths = dict(zip(pulls, spread(wells, [Wells((-1.3, 0.7), each, 150, 2) for each in pulls.values()]), strict=True))
    results = {
        "seeds": given.seeds, "steps": steps, "double_well": ends,
        "factorisation": {
            rank: {name: [run[-1]["losses"] for run in runs] for name, runs in of.items()}
            for rank, of in curves.items()
        },
    }  # fmt: skip
    save(given.out, "symmetry", results, figure=draw(paths, curves))
    print(watch)


def draw(
    paths: Mapping[str, Sequence[Mapping[str, Any]]],
    curves: Mapping[int, Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]],
) -> Any:
    """Return the figure: two workers in the double well, and the best worker's loss in each factorisation."""
    figure, axes = plt.subplots(1, 1 + len(curves), figsize=(3 + 2.9 * len(curves), 3.4), layout="constrained")
    styles = {LSGD: ("C0", "-"), EASGD: ("C3", "--"), NONE: ("C7", ":")}
    well = axes[0]
    for name in (LSGD, EASGD):
        colour, style = styles[name]
        for worker in range(2):
            steps = [report["updates"] for report in paths[name]]
            label = name if worker == 0 else None
            well.plot(steps, [report["places"][worker] for report in paths[name]], style, color=colour, label=label)
    for place in (-1, 1):
        well.axhline(place, color="grey", lw=0.7)
    well.set(title="Two workers in a double well", xlabel="step", ylabel="x (minima at -1 and 1)")
    well.legend(fontsize=8)
    for axis, (rank, of) in zip(axes[1:], curves.items(), strict=True):
        for name, runs in of.items():
            colour, style = styles[name]
            steps = [report["updates"] for report in runs[0]]
            best = np.array([[max(1e-33, min(report["losses"])) for report in run] for run in runs])
            axis.plot(steps, np.median(best, axis=0), style, color=colour, label=name)
            axis.fill_between(steps, best.min(axis=0), best.max(axis=0), color=colour, alpha=0.15, lw=0)
        axis.set(title=f"Factorisation, rank {rank}", xlabel="step", yscale="log", ylim=(1e-34, 10))
    if curves:
        axes[1].set_ylabel("loss of the best of ten workers")
        axes[-1].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
