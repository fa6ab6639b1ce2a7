"""What a suggestion costs a searcher, by the number of trials that it has been told of.

Trials of a space of six parameters are told as ASHA would leave them (eta = 3, rungs at 1, 3, 9 and 27), and then 20
configs are asked for. The figure is the median of their times, in milliseconds of the processor, so that other work on
the machine counts little.

    python -m benchmarks.suggest_cost --trials 100,10000    # all searchers that learn
    python -m benchmarks.suggest_cost --searchers bohb,tpe --trials 100,1000,10000
    python -m benchmarks.suggest_cost --json
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import numpy as np

from tune_platform.protocol.searcher import Outcome, Searcher
from tune_platform.registry import make_searcher
from tune_platform.space import Space, choice, loguniform, randint, uniform

ASKS = 20
OPTIONS = {"priorband": {"prior": {"lr": 1e-3}}}
MODELS = "tpe,bohb,screen,evolution,cqr,forest,portfolio,bo,mfes,dehb,turbo,priorband,gp,cmaes,nsgaii,nsgaiii"
LEVELS = (1.0, 3.0, 9.0, 27.0)
SPACE = Space(
    {
        "lr": loguniform(1e-5, 1), "decay": loguniform(1e-6, 1), "momentum": uniform(0, 1), "layers": randint(1, 9),
        "optimizer": choice(["sgd", "adam", "rmsprop"]), "batch": choice([16, 32, 64, 128]),
    }
)  # fmt: skip


def told(name: str, trials: int) -> Searcher:
    """Return a searcher that has been told of so many trials, each with a config drawn at random."""
    searcher = make_searcher(name, **OPTIONS.get(name, {}))
    searcher.setup(SPACE, mode=["min"], seed=0)
    generator = np.random.default_rng(0)
    for number in range(trials):
        config = SPACE.sample(generator)
        reached = 1
        while reached < len(LEVELS) and generator.random() < 1 / 3:
            reached += 1
        rungs = tuple((level, float(generator.random()) / level) for level in LEVELS[:reached])
        status = "completed" if reached == len(LEVELS) else "stopped"
        searcher.observe(number, config)
        value = rungs[-1][1]
        searcher.tell(number, Outcome(status, value, int(rungs[-1][0]), (value,), config, rungs[-1][0], rungs))
    return searcher


def cost(name: str, trials: int) -> float:
    """Return the milliseconds that a suggestion takes after so many trials: the median of some."""
    searcher, taken = told(name, trials), []
    for number in range(trials, trials + ASKS):
        begin = time.process_time()
        searcher.ask(number)
        taken.append(1e3 * (time.process_time() - begin))
    return median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searchers", default=MODELS)
    parser.add_argument("--trials", default="100,1000,10000")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args()
    counts = [int(count) for count in options.trials.split(",")]
    found: dict[str, dict[str, float]] = {}
    for name in options.searchers.split(","):
        found[name] = {str(count): cost(name, count) for count in counts}
        print(f"{name:8}", *(f"{count} trials: {found[name][str(count)]:.1f} ms" for count in counts), sep="  ")
    if options.json:
        print(json.dumps({"milliseconds": found}))


if __name__ == "__main__":
    main()
