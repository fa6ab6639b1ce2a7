"""A race of searchers and schedulers at equal workers, on tables of real learning curves and one virtual clock.

    python -m benchmarks.search_quality                 # all tables, 8 and 64 workers, 20 seeds
    python -m benchmarks.search_quality --quick --json  # 8 workers, 3 seeds, shorter; the last line is a JSON object

This platform's pairings run in its own simulator; the peers' own scheduler, searcher and pruner objects are driven
step by step on the same curves (`Peer`). Each has `BUDGET` full trainings' worth of worker time. A run is ranked by
when it came to the best 1 % of the table's configs; those that did not come last, by their best value. The
default's searcher was chosen on mlp_digits, boosting_diabetes, and tables that are not kept. Syne Tune is not raced,
nor is Optuna's AutoSampler.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np

from benchmarks.null import simulated
from tune_platform import Budget, SearchSpec, simulate
from tune_platform.curves.table import CurveTable
from tune_platform.simulation import Conditions, Outcome
from tune_platform.space import Categorical, Float, Int

CURVES = Path(__file__).parent / "curves"
#: Worker time of a run, in trainings of mean length to the end.
BUDGET, QUICK_BUDGET = 200, 60
DEFAULT = "default"

Best = list[tuple[float, float]]


class Peer(Protocol):
    """Another library's search: asked for configs, told each value, answers whether the trial goes on."""

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """Return a trial of its own and the config."""

    def report(self, trial: Any, step: int, value: float) -> bool:
        """Take a value; return whether the trial goes on."""

    def done(self, trial: Any, step: int, value: float, stopped: bool) -> None:
        """Take the end of a trial."""


def drive(peer: Peer, table: CurveTable, workers: int, seconds: float) -> Best:
    """Run a peer on the virtual clock; return (time, value) of each improvement."""
    curve, step_time = table.lookup()
    running: list[tuple[float, int, int, Any, Mapping[str, Any]]] = []
    asked = 0

    def start(now: float) -> None:
        nonlocal asked
        trial, config = peer.ask()
        asked += 1
        heapq.heappush(running, (now + step_time(config, 1), asked, 1, trial, config))

    for _ in range(workers):
        start(0.0)
    best: Best = []
    while running:
        now, number, step, trial, config = heapq.heappop(running)
        if now > seconds:
            break
        value = curve(config, step)[table.metric]
        if not best or (value < best[-1][1] if table.mode == "min" else value > best[-1][1]):
            best.append((now, value))
        goes_on = peer.report(trial, step, value)
        if goes_on and curve(config, step + 1) is not None:
            heapq.heappush(running, (now + step_time(config, step + 1), number, step + 1, trial, config))
        else:
            peer.done(trial, step, value, stopped=not goes_on)
            start(now)
    return best


class RayTune:
    """Ray Tune's own ASHA, with configs drawn at random or by its Optuna search."""

    def __init__(self, table: CurveTable, seed: int, *, optuna: bool) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self._table, self._rng, self._count = table, np.random.default_rng(seed), 0
        self._asha = ASHAScheduler(
            metric=table.metric, mode=table.mode, max_t=table.steps, grace_period=1, reduction_factor=3
        )
        self._search = None
        if optuna:
            self._search = OptunaSearch(seed=seed)
            self._search.set_search_properties(table.metric, table.mode, _ray_space(table))

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """Return a trial of its own and the config."""
        self._count += 1
        trial = SimpleNamespace(trial_id=f"t{self._count}", config=None)
        search, space = self._search, self._table.space
        config = space.sample(self._rng) if search is None else search.suggest(trial.trial_id)
        self._asha.on_trial_add(None, trial)
        return trial, config

    def report(self, trial: Any, step: int, value: float) -> bool:
        """Take a value; return whether the trial goes on."""
        result = self._result(step, value)
        if self._search is not None:
            self._search.on_trial_result(trial.trial_id, result)
        return str(self._asha.on_trial_result(None, trial, result)) == "CONTINUE"

    def done(self, trial: Any, step: int, value: float, stopped: bool) -> None:
        """Take the end of a trial."""
        result = self._result(step, value)
        if not stopped:
            self._asha.on_trial_complete(None, trial, result)
        if self._search is not None:
            self._search.on_trial_complete(trial.trial_id, result)

    def _result(self, step: int, value: float) -> dict[str, Any]:
        return {self._table.metric: value, "training_iteration": step}


def _ray_space(table: CurveTable) -> dict[str, Any]:
    from ray import tune

    found: dict[str, Any] = {}
    for name, domain, _ in table.space.parameters():
        match domain:
            case Float():
                found[name] = (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)
            case Int():
                found[name] = (tune.lograndint if domain.log else tune.randint)(domain.low, domain.high + 1)
            case Categorical():
                found[name] = tune.choice(list(domain.values))
    return found


class OptunaHyperband:
    """Optuna's TPE with its Hyperband pruner, by ask and tell."""

    def __init__(self, table: CurveTable, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._table = optuna, table
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=table.steps, reduction_factor=3)
        toward = optuna.study.StudyDirection
        direction = toward.MINIMIZE if table.mode == "min" else toward.MAXIMIZE
        self._study = optuna.create_study(
            direction=direction, sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner
        )

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """Return a trial of its own and the config."""
        trial = self._study.ask()
        config: dict[str, Any] = {}
        for name, domain, _ in self._table.space.parameters():
            match domain:
                case Float():
                    config[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
                case Int():
                    config[name] = trial.suggest_int(name, domain.low, domain.high, log=domain.log)
                case Categorical():
                    config[name] = trial.suggest_categorical(name, list(domain.values))
        return trial, config

    def report(self, trial: Any, step: int, value: float) -> bool:
        """Take a value; return whether the trial goes on."""
        trial.report(value, step)
        return not trial.should_prune()

    def done(self, trial: Any, step: int, value: float, stopped: bool) -> None:
        """Take the end of a trial."""
        if stopped:
            self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, value)


PEERS: Mapping[str, Callable[[CurveTable, int], Peer]] = {
    "Ray Tune: ASHA, random": lambda table, seed: RayTune(table, seed, optuna=False),
    "Ray Tune: ASHA, Optuna": lambda table, seed: RayTune(table, seed, optuna=True),
    "Optuna: TPE, Hyperband": OptunaHyperband,
}


def ours(table: CurveTable, workers: int, seconds: float, seed: int, parts: Mapping[str, Any]) -> Outcome:
    """Run one of this platform's pairings; `parts` are the spec's searcher and scheduler, where they are named."""
    spec = SearchSpec(
        trainable=simulated, param_space=table.space.param_space, metric=table.metric, mode=table.mode,
        budget=Budget(time=seconds), seed=seed, **parts,
    )  # fmt: skip
    return simulate(spec, table, conditions=Conditions(workers=workers))[0]


def pairings(table: CurveTable, *, quick: bool) -> dict[str, dict[str, Any]]:
    """Return this platform's pairings by name; the default names no part."""
    asha = {"name": "asha", "resource": table.resource, "max": table.steps, "eta": 3}
    found: dict[str, dict[str, Any]] = {DEFAULT: {}}
    for searcher in ("random", "bohb") if quick else ("random", "bohb", "tpe"):
        found[f"{searcher}, asha"] = {"searcher": searcher, "scheduler": asha}
    if not quick:
        found["bohb, async_hyperband"] = {"searcher": "bohb", "scheduler": {**asha, "name": "async_hyperband"}}
        found["bohb, no stopping"] = {"searcher": "bohb", "scheduler": "fifo"}
        found["random, no stopping"] = {"searcher": "random", "scheduler": "fifo"}
    return found


class Run(NamedTuple):
    """One run: seconds to the best 1 % and 0.1 % of the table (None: not within the budget), and its best value."""

    percent: float | None
    permille: float | None
    value: float


def race(table: CurveTable, workers: int, seed: int, *, quick: bool) -> tuple[dict[str, Run], float]:
    """Run all on a table; return what each came to, and the seconds that each had."""
    seconds = float(np.nansum(table.seconds, axis=1).mean()) * (QUICK_BUDGET if quick else BUDGET) / workers
    sign = 1.0 if table.mode == "min" else -1.0
    finals = np.nanmin(sign * table.values[table.metric], axis=1)
    goals = [float(np.quantile(finals, share, method="higher")) for share in (0.01, 0.001)]
    curves: dict[str, Best] = {}
    for name, parts in pairings(table, quick=quick).items():
        curves[name] = list(ours(table, workers, seconds, seed, parts).best)
    for name, build in PEERS.items():
        curves[name] = drive(build(table, seed), table, workers, seconds)
    found = {}
    for name, best in curves.items():
        kept = [(when, sign * value) for when, value in best if when <= seconds]
        first = [next((when for when, value in kept if value <= goal), None) for goal in goals]
        found[name] = Run(first[0], first[1], kept[-1][1] if kept else float("inf"))
    return found, seconds


def ranks(runs: Mapping[str, Run]) -> dict[str, float]:
    """Rank the runs of one race, 1 the best; equals share the mean of their ranks."""
    keys = {
        name: (run.percent is None, run.percent or 0.0, run.value if run.percent is None else 0.0)
        for name, run in runs.items()
    }
    order = list(keys.values())
    return {
        name: 1 + sum(o < key for o in order) + (sum(o == key for o in order) - 1) / 2 for name, key in keys.items()
    }


def main() -> None:
    """Race, print a table, and with `--json` one object in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--tables", nargs="*", default=sorted(path.stem for path in CURVES.glob("*.npz")))
    options = parser.parse_args()
    seeds = options.seeds or (3 if options.quick else 20)
    ranked: dict[str, list[float]] = {}
    times: dict[str, list[tuple[float, float]]] = {}  # shares of the budget to the best 1 % and 0.1 %, 1 if not reached
    reached: dict[str, int] = {}
    ratios = []
    for table in [CurveTable.load(CURVES / f"{name}.npz") for name in options.tables]:
        for workers in (8,) if options.quick else (8, 64):
            here: dict[str, list[float]] = {}
            for seed in range(seeds):
                runs, seconds = race(table, workers, seed, quick=options.quick)
                for name, rank in ranks(runs).items():
                    ranked.setdefault(name, []).append(rank)
                    shares = [1.0 if when is None else when / seconds for when in runs[name][:2]]
                    times.setdefault(name, []).append((shares[0], shares[1]))
                    reached[name] = reached.get(name, 0) + (runs[name].percent is not None)
                    here.setdefault(name, []).append(shares[0])
            ratios.append(median(here[DEFAULT]) / min(median(here[name]) for name in PEERS))
    count = len(ranked[DEFAULT])
    print(
        f"{count} races: {', '.join(options.tables)}; {seeds} seeds; times as shares of the budget, 1 if not reached\n"
    )
    print("| pairing | median rank (quartiles) | to the best 1 % | to the best 0.1 % | came to the best 1 % |")
    print("|---|---|---|---|---|")
    for name, each in sorted(ranked.items(), key=lambda item: median(item[1])):
        low, middle, high = np.quantile(each, (0.25, 0.5, 0.75))
        first, second = (median(found[i] for found in times[name]) for i in (0, 1))
        shown = f"{middle:g} ({low:g} to {high:g})"
        print(f"| {name} | {shown} | {first:.2f} | {second:.2f} | {reached[name]} of {count} |")
    if options.json:
        result = {
            "median_rank": {name: median(each) for name, each in ranked.items()},
            "default_time_ratio_to_best_peer": round(median(ratios), 3),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
