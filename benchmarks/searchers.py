"""Searchers paired with random search: on tables of learning curves under ASHA, and on functions trained to the end.

    python -m benchmarks.searchers                               # all that are listed, 20 seeds; hours
    python -m benchmarks.searchers --searchers cqr --save runs.json   # what is in the file is not run again

On a table (`benchmarks/curves`) each searcher runs in the simulator under the same ASHA (eta = 3), 8 workers, with the
worker time of 60 full trainings; a run is better that comes to the best 1 % of the table's configs sooner, or, where
neither does, whose best value is better. On a function 8 configs are evaluated at a time, 100 in all, each takes a
random time, and the best value counts. `won` is the share of the seeds in which a searcher was better than random
search of the same seed, a tie counts half; `rank` is the mean over all problems of the rank among those listed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.search_quality import CURVES, QUICK_BUDGET, ours
from tune_platform.curves.table import CurveTable
from tune_platform.protocol.searcher import Outcome
from tune_platform.registry import make_searcher
from tune_platform.space import Space, choice, loguniform, randint, uniform, when

WORKERS, TRIALS, ETA = 8, 100, 3
SEARCHERS = ("random", "bohb", "cqr", "forest")

Config = Mapping[str, Any]
Key = tuple[float, ...]  # of a run; the smaller the better


def branin(config: Config) -> float:
    """Return Branin's function: two numbers, three equal minima."""
    x, y = config["x"], config["y"]
    bowl = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return float(bowl**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381],
    ]
)  # fmt: skip


def hartmann6(config: Config) -> float:
    """Return Hartmann's function of six numbers."""
    x = np.array([config[f"x{index}"] for index in range(6)])
    return float(-np.array([1, 1.2, 3, 3.2]) @ np.exp(-(_A * (x - _P) ** 2).sum(axis=1)))


def rosenbrock20(config: Config) -> float:
    """Return Rosenbrock's valley in 20 numbers."""
    x = np.array([config[f"x{index}"] for index in range(20)])
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def pipeline(config: Config) -> float:
    """Return the loss of one of two imagined learners, which have different parameters, and a choice that matters."""
    scale = {"none": 0.3, "standard": 0.0, "minmax": 0.1}[config["scaling"]]
    if config["learner"] == "trees":
        depth, rate = config["depth"], math.log10(config["rate"])
        return float(0.2 + scale / 10 + 0.01 * (depth - 6) ** 2 + 0.2 * (rate + 1.2) ** 2)
    lr, width, drop = math.log10(config["lr"]), math.log2(config["width"]), config["dropout"]
    return float(0.1 + scale + 0.3 * (lr + 2.5) ** 2 + 0.02 * (width - 7) ** 2 + 0.5 * (drop - 0.2) ** 2)


FUNCTIONS: Mapping[str, tuple[Callable[[Config], float], dict[str, Any]]] = {
    "branin": (branin, {"x": uniform(-5, 10), "y": uniform(0, 15)}),
    "hartmann6": (hartmann6, {f"x{index}": uniform(0, 1) for index in range(6)}),
    "rosenbrock20": (rosenbrock20, {f"x{index}": uniform(-2, 2) for index in range(20)}),
    "pipeline": (
        pipeline,
        {
            "scaling": choice(["none", "standard", "minmax"]), "learner": choice(["trees", "network"]),
            "depth": when(randint(1, 16), {"learner": "trees"}),
            "rate": when(loguniform(1e-3, 1), {"learner": "trees"}),
            "lr": when(loguniform(1e-5, 1), {"learner": "network"}),
            "width": when(randint(8, 1025), {"learner": "network"}),
            "dropout": when(uniform(0, 0.8), {"learner": "network"}),
        },
    ),
}  # fmt: skip


def on_function(problem: str, searcher: Any, seed: int, *, trials: int = TRIALS) -> Key:
    """Run a searcher on a function, `WORKERS` configs at a time; return the best value."""
    function, domains = FUNCTIONS[problem]
    built = build(searcher)
    built.setup(Space(domains), mode=["min"], seed=seed)
    clock = np.random.default_rng([seed, 1])
    running: list[tuple[float, int, dict[str, Any]]] = []
    best, now = math.inf, 0.0
    for number in range(trials + WORKERS):
        if number >= WORKERS:
            now, done, config = heapq.heappop(running)
            value = function(config)
            best = min(best, value)
            built.tell(done, Outcome("completed", value, 1, (value,), config, 1.0, ((1.0, value),)))
        suggestion = built.ask(number)
        assert suggestion is not None
        heapq.heappush(running, (now + clock.uniform(0.5, 1.5), number, suggestion.config))
    return (best,)


def on_table(problem: str, searcher: Any, seed: int) -> Key:
    """Run a searcher on a table under ASHA; return the time to the best 1 %, and the best value."""
    table = CurveTable.load(CURVES / f"{problem}.npz")
    seconds = float(np.nansum(table.seconds, axis=1).mean()) * QUICK_BUDGET / WORKERS
    sign = 1.0 if table.mode == "min" else -1.0
    goal = float(np.quantile(np.nanmin(sign * table.values[table.metric], axis=1), 0.01, method="higher"))
    asha = {"name": "asha", "resource": table.resource, "max": table.steps, "eta": ETA}
    parts = {"searcher": searcher, "scheduler": asha}
    best = [
        (when_, sign * value) for when_, value in ours(table, WORKERS, seconds, seed, parts).best if when_ <= seconds
    ]
    first = next((when_ for when_, value in best if value <= goal), math.inf)
    return (first, 0.0 if first < math.inf else best[-1][1])


def warm_share(problem: str, searcher: str, seeds: int) -> float:
    """Return how often a search of 20 trials is better that knows 60 trials of an earlier, random one."""
    function, domains = FUNCTIONS[problem]
    space, pairs = Space(domains), []
    for seed in range(seeds):
        generator = np.random.default_rng([seed, 2])
        earlier = sorted((space.sample(generator) for _ in range(60)), key=function)
        found = []
        for warm in ([earlier], []):
            built = build(searcher)
            built.warm = warm
            found.append(on_function(problem, built, seed, trials=20))
        pairs.append(found)
    return won(*zip(*pairs, strict=True))


def build(searcher: Any) -> Any:
    """Return a searcher of a name, or of a dict of a name and options, or the one that is given."""
    if not isinstance(searcher, str | dict):
        return searcher
    options = {"name": searcher} if isinstance(searcher, str) else dict(searcher)
    return make_searcher(options.pop("name"), **options)


def won(mine: Sequence[Key], theirs: Sequence[Key]) -> float:
    """Return the share of pairs in which the first is better; a tie counts half."""
    return mean((m < t) + 0.5 * (m == t) for m, t in zip(mine, theirs, strict=True))


def main() -> None:
    """Run what is not in the file, and print the table."""
    tables = sorted(path.stem for path in CURVES.glob("*.npz"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searchers", default=",".join(SEARCHERS), help="names, or JSON objects as a JSON list")
    parser.add_argument("--problems", default=",".join([*tables, *FUNCTIONS]))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--save", type=Path, help="a JSON file that is read and extended")
    parser.add_argument("--warm", action="store_true", help="on functions: with and without an earlier search")
    options = parser.parse_args()
    if options.warm:
        for name in options.searchers.split(","):
            print(name, *(f"{each} {warm_share(each, name, options.seeds):.2f}" for each in FUNCTIONS), sep="  ")
        return
    named = options.searchers
    searchers = json.loads(named) if named.startswith("[") else named.split(",")
    searchers = ["random", *(one for one in searchers if one != "random")]
    problems = options.problems.split(",")
    runs: dict[str, list[Key]] = {}
    if options.save and options.save.exists():
        runs = {key: [tuple(run) for run in found] for key, found in json.loads(options.save.read_text()).items()}
    names = [one if isinstance(one, str) else json.dumps(one) for one in searchers]
    for name, searcher in zip(names, searchers, strict=True):
        for problem in problems:
            found = runs.setdefault(f"{name} {problem}", [])
            for seed in range(len(found), options.seeds):
                found.append((on_function if problem in FUNCTIONS else on_table)(problem, searcher, seed))
            if options.save:
                options.save.write_text(json.dumps(runs))
    print(f"won against random search, of {options.seeds} seeds\n")
    print(f"| searcher | rank | {' | '.join(problems)} |")
    print(f"|---|---|{'---|' * len(problems)}")
    seeds = range(options.seeds)
    for name in names:
        shares = [won(runs[f"{name} {p}"][: options.seeds], runs[f"random {p}"][: options.seeds]) for p in problems]
        ranks = [1 + sum(_rank(runs[f"{name} {p}"][s], runs[f"{other} {p}"][s]) for other in names if other != name)
                 for p in problems for s in seeds]  # fmt: skip
        print(f"| {name} | {mean(ranks):.2f} | {' | '.join(f'{share:.2f}' for share in shares)} |")


def _rank(mine: Key, theirs: Key) -> float:
    return (theirs < mine) + 0.5 * (theirs == mine)


if __name__ == "__main__":
    main()
