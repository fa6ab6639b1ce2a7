"""What it costs a searcher that learns to be asked before there is a place for what it suggests.

Optuna's TPE searches Rosenbrock's valley over [-2, 2]^2 and [-2, 2]^4 on a virtual clock, where a trial takes between
0.5 and 1.5 seconds, with one place and with 16. Each search is run with nothing drawn ahead of need (`prefetch=0`),
with as much as the searcher itself wants (its `lookahead`: the default), and with 16 suggestions. The figures are the
median, over seeds, of the best loss after 100 trials, and its ratio to that with nothing drawn ahead, with the 95 %
interval of a bootstrap over the seeds. Times are virtual, so the figures are the same on every machine.

    python -m benchmarks.ask_late            # 40 seeds
    python -m benchmarks.ask_late --quick --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from benchmarks.report import Table

TRIALS = 100
PLACES = (1, 16)
NAMES = {2: "wx", 4: "wxyz"}  # by the number of dimensions
PREFETCH: Mapping[str, int | None] = {"0": 0, "own": None, "16": 16}
SEEDS = {"quick": 5, "long": 40}


def valley(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    """Rosenbrock's function, in one step: its minimum 0 lies at (1, 1, ...), along a bent valley."""
    if step > 1:
        return None
    point = [config[name] for name in sorted(config)]
    return {"loss": sum((1 - a) ** 2 + 100 * (b - a * a) ** 2 for a, b in pairwise(point))}


def best_loss(searcher: str, dimensions: int, places: int, prefetch: int | None, seed: int) -> float:
    """Return the best loss of one search."""
    from benchmarks.null import simulated
    from tune_platform import SearchSpec, run, uniform
    from tune_platform.backends.simulated import SimulatedBackend

    with tempfile.TemporaryDirectory() as storage:
        spec = SearchSpec(
            name="valley",
            trainable=simulated,
            param_space={name: uniform(-2, 2) for name in NAMES[dimensions]},
            metric="loss",
            mode="min",
            searcher=searcher,
            num_samples=TRIALS,
            prefetch=prefetch,
            seed=seed,
            backend=SimulatedBackend(valley, workers=places),
            storage=storage,
        )
        best = run(spec).best().best
    assert best is not None
    return best


def ratio_of_medians(late: Sequence[float], none: Sequence[float], draws: int = 10_000) -> tuple[float, float, float]:
    """Return the ratio of the medians and its 95 % interval; both searches of a seed are drawn together."""
    pairs = np.asarray([late, none])
    drawn = pairs[:, np.random.default_rng(0).integers(len(late), size=(draws, len(late)))]
    above, below = np.median(drawn, axis=2)
    low, high = np.quantile(above / below, [0.025, 0.975])
    return float(np.median(late) / np.median(none)), float(low), float(high)


def measure(searcher: str, dimensions: int, places: int, seeds: int) -> dict[str, dict[str, float]]:
    """Return the figures of one setting, by how many suggestions are drawn ahead."""
    losses = {
        name: [best_loss(searcher, dimensions, places, prefetch, seed) for seed in range(seeds)]
        for name, prefetch in PREFETCH.items()
    }
    figures: dict[str, dict[str, float]] = {}
    for name, found in losses.items():
        ratio, low, high = ratio_of_medians(found, losses["0"])
        figures[name] = {"median": float(np.median(found)), "ratio": ratio, "low": low, "high": high}
    return figures


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="few seeds, within a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--searcher", default="tpe", help="the searcher's name; tpe where not given")
    parser.add_argument("--seeds", type=int, help="how many; 5 or 40 where not given")
    options = parser.parse_args()
    seeds = options.seeds or SEEDS["quick" if options.quick else "long"]
    table = Table("dimensions", "places", "drawn ahead", "median best loss", "ratio", "95 % interval")
    found: dict[str, dict[str, Any]] = {}
    for dimensions, places in product(NAMES, PLACES):
        figures = measure(options.searcher, dimensions, places, seeds)
        found.setdefault(str(dimensions), {})[str(places)] = figures
        for name, row in figures.items():
            interval = f"{row['low']:.2f} to {row['high']:.2f}"
            table.add(dimensions, places, name, f"{row['median']:.4g}", f"{row['ratio']:.2f}", interval)
    table.print()
    if options.json:
        print(json.dumps({"searcher": options.searcher, "seeds": seeds, "trials": TRIALS, "dimensions": found}))


if __name__ == "__main__":
    main()
