"""Other libraries' searches, driven step by step on the virtual clock of a table of learning curves.

Each is its library's own scheduler, searcher or pruner object. Those that search at random are given the draws of this
platform's random search of the same seed, so that what differs between them is the rule by which they stop.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Protocol

from tune_platform.curves.table import CurveTable
from tune_platform.registry import make_searcher
from tune_platform.space import Categorical, Float, Int

Best = list[tuple[float, float]]


class Peer(Protocol):
    """Another library's search: asked for configs, told each value, answers whether the trial goes on."""

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """Return a trial of its own and the config."""

    def report(self, trial: Any, step: int, value: float) -> bool:
        """Take a value; return whether the trial goes on."""

    def done(self, trial: Any, step: int, value: float, stopped: bool) -> None:
        """Take the end of a trial."""


def drive(peer: Peer, table: CurveTable, workers: int, seconds: float, goal: float | None = None) -> Best:
    """Run a peer on the virtual clock, to a goal if there is one; return (time, value) of each improvement."""
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
            if goal is not None and (value <= goal if table.mode == "min" else value >= goal):
                break
        goes_on = peer.report(trial, step, value)
        if goes_on and curve(config, step + 1) is not None:
            heapq.heappush(running, (now + step_time(config, step + 1), number, step + 1, trial, config))
        else:
            peer.done(trial, step, value, stopped=not goes_on)
            start(now)
    return best


def random_draws(table: CurveTable, seed: int) -> Callable[[], dict[str, Any]]:
    """Return what draws the configs of this platform's random search, one after the other."""
    searcher = make_searcher("random")
    searcher.setup(table.space, mode=[table.mode], seed=seed)
    numbers = iter(range(10**9))

    def draw() -> dict[str, Any]:
        found = searcher.ask(next(numbers))
        assert found is not None
        return found.config

    return draw


class RayTune:
    """Ray Tune's own ASHA, with configs drawn at random or by its Optuna search."""

    def __init__(self, table: CurveTable, seed: int, *, optuna: bool) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self._table, self._draw, self._count = table, random_draws(table, seed), 0
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
        config = self._draw() if self._search is None else self._search.suggest(trial.trial_id)
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


class Optuna:
    """Optuna's TPE by ask and tell, with its Hyperband pruner or the median pruner that a study has by default."""

    def __init__(self, table: CurveTable, seed: int, *, hyperband: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._table = optuna, table
        pruner: optuna.pruners.BasePruner = optuna.pruners.MedianPruner()
        if hyperband:
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


class SyneTune:
    """Syne Tune's asynchronous schedulers (ASHA, BOHB, ASHACQR) by their own `suggest` and `on_trial_result`."""

    def __init__(self, table: CurveTable, seed: int, *, name: str) -> None:
        from syne_tune.optimizer import baselines

        self._table, self._count, self._draw = table, 0, random_draws(table, seed)
        self._random = name == "ASHA"
        self._scheduler = getattr(baselines, name)(
            _syne_space(table), metric=table.metric, time_attr="step", max_t=table.steps,
            do_minimize=table.mode == "min", random_seed=seed, grace_period=1, reduction_factor=3,
        )  # fmt: skip

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """Return a trial of its own and the config."""
        from datetime import UTC, datetime

        from syne_tune.backend.trial_status import Trial

        config = self._draw() if self._random else self._scheduler.suggest().config
        trial = Trial(trial_id=self._count, config=config, creation_time=datetime.fromtimestamp(0, UTC))
        self._count += 1
        self._scheduler.on_trial_add(trial)
        return trial, config

    def report(self, trial: Any, step: int, value: float) -> bool:
        """Take a value; return whether the trial goes on."""
        decision = self._scheduler.on_trial_result(trial, {self._table.metric: value, "step": step})
        return step >= self._table.steps or str(decision) == "CONTINUE"

    def done(self, trial: Any, step: int, value: float, stopped: bool) -> None:
        """Take the end of a trial."""
        if stopped:
            self._scheduler.on_trial_remove(trial)
        else:
            self._scheduler.on_trial_complete(trial, {self._table.metric: value, "step": step})


def _syne_space(table: CurveTable) -> dict[str, Any]:
    from syne_tune import config_space

    found: dict[str, Any] = {}
    for name, domain, _ in table.space.parameters():
        match domain:
            case Float():
                build = config_space.loguniform if domain.log else config_space.uniform
                found[name] = build(domain.low, domain.high)
            case Int():
                build = config_space.lograndint if domain.log else config_space.randint
                found[name] = build(domain.low, domain.high)
            case Categorical():
                found[name] = config_space.choice(list(domain.values))
    return found


def peers(*, quick: bool = False) -> Mapping[str, Callable[[CurveTable, int], Peer]]:
    """Return the peers by name; Syne Tune's where it is installed, the cheap one of them alone in the quick form."""
    found: dict[str, Callable[[CurveTable, int], Peer]] = {
        "Ray Tune: ASHA, random": lambda table, seed: RayTune(table, seed, optuna=False),
        "Ray Tune: ASHA, Optuna": lambda table, seed: RayTune(table, seed, optuna=True),
        "Optuna: TPE, Hyperband": lambda table, seed: Optuna(table, seed, hyperband=True),
        "Optuna: TPE, median": lambda table, seed: Optuna(table, seed, hyperband=False),
    }
    if find_spec("syne_tune") is not None:
        for name in ("ASHA",) if quick else ("ASHA", "BOHB", "ASHACQR"):
            found[f"Syne Tune: {name}"] = partial(SyneTune, name=name)
    return found
