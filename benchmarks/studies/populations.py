"""PB2 and MF-PBT against PBT and random search, each on a response of the kind that its paper is about.

    python -m benchmarks.studies.populations                # 20 seeds: seconds
    python -m benchmarks.studies.populations --seeds 5

moving   What PB2 is for (Parker-Holder et al. 2020): few members, and gains that are a smooth function of two
         continuous parameters whose best moves with time. A step gains 1 - 4 |x - best(t)|^2 with noise of 0.05; told
         is the sum of the best member after 60 steps, of 4, judged every 3.
greedy   What MF-PBT is for (Doulazmi et al. 2025): SGD on a noisy quadratic (Wu et al. 2018, short-horizon bias), with
         curvatures from 1 to 0.001. To lower the rate lowers the loss at once, by the noise of the steep directions,
         and ends the progress in the flat ones. Told is the log10 of the lowest loss at the end, of 32 members, after
         100 intervals of 10 steps; MF-PBT has the paper's frequencies.

All have the same first configs and the same steps, and all are synchronous. Nothing here was chosen by the results.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import t

from tune_platform import loguniform, uniform
from tune_platform.protocol.reports import Report
from tune_platform.protocol.verdicts import Clone
from tune_platform.schedulers import MFPBT, PB2, PBT
from tune_platform.space import Space
from tune_platform.testing.schedulers import FakeTrial

#: Takes the states of all members, their configs, the share of the search that is over and draws; changes the states.
Advance = Callable[[np.ndarray, list[Mapping[str, Any]], float, np.random.Generator], None]


def search(
    scheduler: PBT | None, space: Space, states: np.ndarray, advance: Advance, loss: Any, rounds: int, seed: int
) -> float:
    """Train a population of as many members as `states` has rows, without a scheduler at random; return the lowest
    loss at the end."""
    draws = np.random.default_rng(seed)
    trials = [FakeTrial(number, space.sample(draws)) for number in range(len(states))]
    if scheduler is not None:
        scheduler.prepare(space, ("loss",), ("min",))
        scheduler.setup(metric="loss", mode="min", seed=seed)
        for trial in trials:
            scheduler.on_add(trial)
            scheduler.on_start(trial)
        scheduler.on_supply_end()
    for now in range(1, rounds + 1):
        advance(states, [trial.config for trial in trials], now / rounds, draws)
        if scheduler is None:
            continue
        decisions: Any = []
        for trial in trials:
            trial.last = Report(now, {"loss": float(loss(states[trial.number]))}, 0.0)
            decisions = scheduler.on_report(trial, trial.last)
        before, configs = states.copy(), {}
        for decision in decisions or ():
            if isinstance(decision.verdict, Clone):
                states[decision.trial] = before[decision.verdict.source]
                configs[decision.trial] = decision.verdict.config
        for number, config in configs.items():
            trials[number].config = config
            scheduler.on_start(trials[number])
    return float(min(loss(state) for state in states))


def moving(scheduler: PBT | None, seed: int) -> float:
    """Return the lowest negative height of four members."""
    space = Space({"a": uniform(0, 1), "b": uniform(0, 1)})

    def advance(states: np.ndarray, configs: list[Mapping[str, Any]], share: float, draws: np.random.Generator) -> None:
        best = np.array([0.2 + 0.6 * share, 0.5 + 0.3 * math.sin(2 * math.pi * share)])
        for state, config in zip(states, configs, strict=True):
            apart = np.array([config["a"], config["b"]]) - best
            state[0] -= 3 * (1 - 4 * apart @ apart) + 3**0.5 * 0.05 * draws.standard_normal()

    return search(scheduler, space, np.zeros((4, 1)), advance, lambda state: state[0], 20, seed)


def greedy(scheduler: PBT | None, seed: int) -> float:
    """Return the log10 of the lowest loss of 32 members."""
    space = Space({"lr": loguniform(1e-3, 1.0)})
    curvatures = np.logspace(0, -3, 8)

    def advance(states: np.ndarray, configs: list[Mapping[str, Any]], share: float, draws: np.random.Generator) -> None:
        rates = np.array([[config["lr"]] for config in configs])
        for _ in range(10):
            noise = np.sqrt(curvatures) * draws.standard_normal(states.shape)
            states -= rates * (curvatures * states + noise)

    start = np.tile(10.0 / np.sqrt(curvatures), (32, 1))
    return math.log10(search(scheduler, space, start, advance, lambda x: 0.5 * (curvatures * x * x).sum(), 100, seed))


TASKS: dict[str, tuple[Callable[[PBT | None, int], float], dict[str, Callable[[], PBT | None]]]] = {
    "moving": (
        moving,
        {
            "pb2": lambda: PB2(interval=1, synchronous=True),
            "pbt": lambda: PBT(interval=1, synchronous=True),
            "random": lambda: None,
        },
    ),
    "greedy": (
        greedy,
        {
            "mf_pbt": lambda: MFPBT(interval=1),
            "pbt": lambda: PBT(interval=1, synchronous=True),
            "pbt, each 10": lambda: PBT(interval=10, synchronous=True),
            "random": lambda: None,
        },
    ),
}


def main() -> None:
    """Search with each for each seed, and print the means and the intervals of the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--task", choices=TASKS, nargs="*", help="these alone")
    given = parser.parse_args()
    for task in given.task or TASKS:
        run, kinds = TASKS[task]
        found = {kind: np.array([run(make(), seed) for seed in range(given.seeds)]) for kind, make in kinds.items()}
        ours, *others = found
        print(f"{task}: " + ", ".join(f"{kind} {values.mean():.3f}" for kind, values in found.items()), flush=True)
        for other in others:
            gains = found[other] - found[ours]
            half = t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
            interval = f"[{gains.mean() - half:.3f}, {gains.mean() + half:.3f}]"
            won = int((gains > 0).sum())
            print(f"  {ours} is lower than {other} by {gains.mean():.3f} {interval}, in {won} of {len(gains)}")


if __name__ == "__main__":
    main()
