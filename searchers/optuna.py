"""Optuna's samplers as searchers: TPE, Gaussian process, CMA-ES, NSGA-II, quasi-Monte Carlo, or your own.

Exact resume. Before each suggestion of trial n the sampler is built afresh, seeded from (seed, n), so
nothing hides in its memory. What samplers keep on purpose lies in the study: trials, and attributes.
The attributes that a suggestion wrote travel in its memo, and `restore` puts the study together again.
The order in which trials are told is not kept by the study and does not matter to the named
samplers; the numbers of trials do, so asking and observing must go in the order of the numbers.
A sampler object of the user's own keeps its own random state: such a search resumes, but not exactly.
"""

from __future__ import annotations

import copy
import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from tune_platform.errors import SearcherError, SpecError, did_you_mean
from tune_platform.extras import require
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.protocol.seeds import rng
from tune_platform.searchers import _cma_state
from tune_platform.searchers._optuna_params import distribution_of, is_numbered, suggest, to_raw
from tune_platform.searchers._optuna_study import Judged, Params, Storage, frozen_trial, judge
from tune_platform.searchers._places import Places
from tune_platform.searchers._tried import Tried
from tune_platform.space import Domain, Space

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
    "nsgaiii": optuna.samplers.NSGAIIISampler,
    "qmc": optuna.samplers.QMCSampler,
}
#: libraries that Optuna leaves to the user
_NEEDS = {"gp": ("scipy", "torch"), "cmaes": ("cmaes",), "qmc": ("scipy",)}
#: those whose suggestions do not depend on results
_BLIND = ("random", "qmc")
#: suggestions that a model may make before a constraint is met by uniform draws instead
_TRIES = 10
_MOST = 300  # finished trials that TPE is fitted to, which bounds what a suggestion costs
_GP_MOST = 80  # completed trials that gp is fitted to: the best, the newest, and others of all ranks
_GP_TRIES = 3  # seconds each, and the same optimum again, as a rule
_filters = threading.Lock()
_FAIL, _RUNNING = Judged(TrialState.FAIL), Judged(TrialState.RUNNING)


class _Open(NamedTuple):
    """A trial that runs, or stands paused."""

    at: int  # its number in the study
    config: Mapping[str, Any]  # as it began


def _check_contained(params: Params) -> None:
    for name, value in params[0].items():
        distribution = params[1][name]
        if not distribution._contains(distribution.to_internal_repr(value)):
            raise ValueError(f"{name}={value!r} is not in {distribution}")


class OptunaSearcher:
    """Asks and tells a sampler of Optuna (5.0) on a study in memory.

    `sampler` is tpe, random, gp, cmaes, nsgaii, nsgaiii or qmc, with the sampler's own arguments as keywords, or a
    sampler object. Two defaults differ from Optuna's: TPE is grouped on conditional spaces, QMC is scrambled.
    gp and cmaes model only the parameters that every config has, and cmaes only numbers; the rest is random.

    Completed trials count with their value; stopped ones are PRUNED, with the values at the rungs that they reached,
    which TPE learns from and the others ignore (in a multi-objective search they count as completed); so are paused
    ones for TPE and a sampler object, until they are told of again, while the others see them as running; and so are
    those that have passed a rung and run on, for TPE;
    failed ones, and values that are None or not finite, are FAIL and forgotten. Running trials are in
    the study, so that TPE and gp suggest something different meanwhile. Where a trial was cloned, its value stands
    under the config that gave it (for cmaes outside of its generations); one that has left the space is forgotten.
    The steps of intermediate values order as the scheduler's resource does, which may be a fraction (`step_of`).

    `grid_search` parameters cycle through their cross product, as in random search; the rest is suggested beside them.
    A suggestion that breaks a constraint is told as FAIL; after ten (three of gp), a config is drawn at random.
    TPE takes about 30 ms for a suggestion and gp some tenths of a second, however many trials there are (with several
    objectives both grow): `synchronous` is False.
    """

    lookahead: int | None = 0
    duplicates = "allow"  #: `avoid`: no config is suggested that was tried; set before `setup`
    exhausted = ""  #: why there is nothing more to try

    def __init__(self, sampler: str | BaseSampler = "tpe", **sampler_kwargs: Any) -> None:
        self.synchronous = sampler == "random"
        self.lookahead: int | None = None if sampler in _BLIND else 0
        self.longer_choices = isinstance(sampler, str)  # who knows what an object of the user's keeps
        self.follows = sampler == "tpe"
        self._name, self._own, self._kwargs = None, None, sampler_kwargs
        if isinstance(sampler, str):
            self._name = sampler
            _check_arguments(sampler, sampler_kwargs)
            require(f"searcher {sampler!r}", *_NEEDS.get(sampler, ()))
        elif isinstance(sampler, BaseSampler):
            self._own = sampler
            if sampler_kwargs:
                raise SpecError(f"arguments {sorted(sampler_kwargs)} cannot be given to a sampler that is built")
        else:
            raise SpecError(f"sampler {sampler!r}: a name or an optuna.samplers.BaseSampler object is needed")

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the arguments by which the registry builds it again; a sampler object has none."""
        return {"name": "optuna", "sampler": self._name or self._own, **self._kwargs}

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Take the space, the modes and the seed. SpecError when the sampler cannot serve them."""
        for word in mode:
            if word not in ("min", "max"):
                raise SpecError(f"mode {word!r}: min or max is needed")
        if self._name == "cmaes" and len(mode) > 1:
            raise SpecError("cmaes optimizes a single metric; for several use tpe, nsgaii or gp")
        if space.constraints:
            space.check(seed)
        self._space, self._seed, self._objectives = space, seed, len(mode)
        sign = 1 if mode[0] == "min" else -1
        if self._name == "gp" and self._objectives == 1:
            self._storage = Storage(_GP_MOST, sign, newest=_GP_MOST // 4, pruned=False)
        else:
            self._storage = Storage(_MOST if self._name == "tpe" and self._objectives == 1 else None, sign)
        with _quiet():
            self._study = optuna.create_study(
                storage=self._storage,
                sampler=self._own or RandomSampler(),
                directions=["minimize" if word == "min" else "maximize" for word in mode],
            )
        self._build_sampler(0, 0)  # so that a wrong argument is found now
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._domains = {parameter.name: parameter.domain for parameter in space.parameters()}
        self._distributions = {name: distribution_of(domain) for name, domain in self._domains.items()}
        self._numbered = {name for name, domain in self._domains.items() if is_numbered(domain)}
        if len(mode) > 1 or self._own:
            self._check_serves()
        self._running: dict[int, _Open] = {}
        self._grid = space.grid_points()
        self._places = Places()
        self._tried = Tried(space, avoid=self.duplicates == "avoid")

    def _check_serves(self) -> None:
        """Raise SpecError where the sampler cannot serve the space and objectives: a copy of it suggests something."""
        try:
            sampler = copy.deepcopy(self._study.sampler) if self._own else self._build_sampler(0, 0)
        except Exception:  # it cannot be copied
            return
        with _quiet():
            study = optuna.create_study(sampler=sampler, directions=self._study.directions)
            try:
                self._space.build(partial(suggest, study.ask()))
            except ValueError as error:
                whole = f"{type(sampler).__name__} cannot search this space"
                count = f" for {self._objectives} objectives" if self._objectives > 1 else ""
                raise SpecError(f"{whole}{count}: {error}") from error

    # ------------------------------------------------------------------------------------ ask

    def ask(self, number: int) -> Suggestion | None:
        """Suggest the config of trial `number`; None where duplicates are avoided and nothing is left.

        SpecError when no config meets the constraints.
        """
        attrs_before = self._storage.get_study_system_attrs(self._study_id)
        tries = _GP_TRIES if self._name == "gp" else _TRIES
        grid = self._grid_point(number)
        for attempt in range(tries):
            if self._own is None:
                self._study.sampler = self._build_sampler(number, attempt)
            trial = self._ask(grid)
            try:
                with _without_advice() if self._name == "qmc" else nullcontext():
                    config = self._space.build(partial(suggest, trial))
                satisfied = self._tried.is_new(config) and self._space.satisfied(config)
            except BaseException:
                self._study.tell(trial, state=TrialState.FAIL)
                raise
            if satisfied:
                self._running[number] = _Open(trial.number, config)
                self._tried.add(config)
                return Suggestion(config, self._memo(number, attempt, attrs_before))
            self._study.tell(trial, state=TrialState.FAIL)
        config, params = self._draw(number, grid)
        if not self._tried.is_new(config):
            other = self._tried.another(rng(self._seed, number, "another"), grid)
            if other is None:
                self.exhausted = self._tried.all_tried
                return None
            config, params = other, self._params_of(other)
        self._tried.add(config)
        self._add_running(number, config, params)
        return Suggestion(config, self._memo(number, tries, attrs_before))

    def ask_batch(self, numbers: Sequence[int]) -> Iterator[Suggestion | None]:
        """Suggest the configs of several trials, each when it is wanted, with those before it running by then."""
        return map(self.ask, numbers)

    def _build_sampler(self, number: int, attempt: int) -> BaseSampler:
        assert self._name is not None or self._own is not None
        if self._own is not None:
            return self._own
        seed = int(rng(self._seed, number, f"optuna:{attempt}").integers(2**32))
        kwargs: dict[str, Any] = {"seed": seed}
        if self._name == "tpe" and self._space.conditional and self._objectives == 1:
            # one model for each group of parameters that occur together; alone it would need them all to
            kwargs["group"] = self._kwargs.get("multivariate") is not False
        if self._name == "qmc":  # one sequence for the search; its place in it lies in the study
            kwargs.update(scramble=True, seed=int(rng(self._seed, 0, "qmc").integers(2**32)))
            kwargs["independent_sampler"] = RandomSampler(seed=seed)
        if self._name in ("gp", "cmaes", "qmc"):
            kwargs["warn_independent_sampling"] = False
        assert self._name is not None
        with _quiet():
            return SAMPLERS[self._name](**{**kwargs, **self._kwargs})

    def _grid_point(self, number: int) -> dict[str, Any]:
        """Return the values of the `grid_search` parameters that are this trial's: one point after the other."""
        return self._grid.point(self._places.point(number) % self._grid.total)

    def _ask(self, grid: Mapping[str, Any]) -> Trial:
        """Begin a trial of the study in which these parameters have these values."""
        if grid:
            self._study.enqueue_trial({name: to_raw(self._domains[name], value) for name, value in grid.items()})
        return self._study.ask()

    def _draw(self, number: int, grid: Mapping[str, Any]) -> tuple[dict[str, Any], Params]:
        """Draw a config at random, for the model suggests only what the constraints forbid.

        Where they forbid the point of the grid too, it is left out.
        """
        generator = rng(self._seed, number, "uniform")
        for attempt in range(2000 if grid else 1000):
            picked: dict[str, tuple[Domain, Any]] = {}
            fixed = grid if attempt < 1000 else {}

            def pick(
                name: str, domain: Domain, picked: dict[str, Any] = picked, fixed: Mapping[str, Any] = fixed
            ) -> Any:
                picked[name] = domain, fixed[name] if name in fixed else domain.sample(generator)
                return picked[name][1]

            config = self._space.build(pick)
            if self._space.satisfied(config):
                params = {name: to_raw(domain, value) for name, (domain, value) in picked.items()}
                return config, (params, {name: distribution_of(domain) for name, (domain, _) in picked.items()})
        self._space.sample(generator)  # raises, and says which constraint
        raise SearcherError("no config meets the constraints")

    def _memo(self, number: int, skipped: int, before: Mapping[str, Any]) -> dict[str, Any]:
        """Write down what the study knows of a suggestion, and what the suggestion changed in the study."""
        frozen = self._frozen(number)
        memo: dict[str, Any] = {"params": dict(frozen.params)}
        if frozen.system_attrs:
            memo["attrs"] = _cma_state.to_json(frozen.system_attrs)
        after = self._storage.get_study_system_attrs(self._study_id)
        if after is not before:  # the storage replaces the dict when it changes
            memo["study"] = {key: value for key, value in after.items() if before.get(key) != value}
        if skipped:
            memo["skipped"] = skipped
        if self._space.define_by_run:
            memo["distributions"] = {name: distribution_to_json(d) for name, d in frozen.distributions.items()}
        return memo

    # ------------------------------------------------------------------------------------ tell

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Hear that trial `number` runs with a config of its own. SpecError when it is not in the space."""
        self._places.observe(number)
        self._tried.add(config)
        self._add_running(number, config, self._params_of(config))

    def tell(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended, or stands while it is paused. SearcherError for a trial that does not run."""
        if number not in self._running:
            raise SearcherError(f"trial {number} was told to the searcher, but it is not running there")
        if outcome.status in ("paused", "running"):
            self._pause(number, outcome)
            return
        judged, trial = self._judged(number, outcome)
        at = self._running.pop(number).at
        self._storage.paused.pop(at, None)
        self._storage.put(trial)
        self._study.tell(at, values=judged.values if judged.state is TrialState.COMPLETE else None, state=judged.state)

    def _judged(self, number: int, outcome: Outcome) -> tuple[Judged, FrozenTrial]:
        """Return what Optuna makes of an outcome, and the running trial with all of it but the state and the values."""
        frozen = copy.copy(self._frozen(number))
        judged, params = self._judge(self._running[number].config, outcome)
        if params is not None:
            frozen.params, frozen.distributions = params
            frozen.system_attrs = _cma_state.without_place(frozen.system_attrs)
        frozen.intermediate_values = dict(judged.steps or {})
        return judged, frozen

    def _judge(self, began: Mapping[str, Any], outcome: Outcome) -> tuple[Judged, Params | None]:
        """Return what Optuna makes of an outcome, and the parameters that gave it where the trial began with others."""
        config, params = outcome.config, None
        if config is not None and config != began:
            try:
                params = self._params_of(config)
                if params[0] == self._params_of(began)[0]:
                    params = None
            except SpecError:
                return _FAIL, None  # Optuna cannot hold the config, and no other gave the value
        return judge(outcome, self._objectives), params

    def _pause(self, number: int, outcome: Outcome) -> None:
        """Show a running trial of the study as pruned where it stands, to the samplers that learn from pruned ones."""
        judged, frozen = self._judged(number, outcome)
        if judged.state is TrialState.PRUNED and self._name in ("tpe", None):
            frozen.state, frozen.values = judged.state, judged.values
            frozen.datetime_complete = frozen.datetime_start
            self._storage.pause(frozen)

    # ------------------------------------------------------------------------------------ restore

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Put the study together again, in time linear in the past.

        A trial that no longer fits the space (it was changed on resume) is kept as a failed one.
        """
        for trial in sorted(past, key=lambda trial: trial.number):
            memo = trial.memo or {}
            self._tried.add(trial.config)
            if trial.memo is None:
                self._places.observe(trial.number)
            for _ in range(memo.get("skipped", 0)):
                self._storage.add(self._study_id, frozen_trial(_FAIL))
            for key, value in memo.get("study", {}).items():
                self._storage.set_study_system_attr(self._study_id, key, value)
            try:
                params = self._remembered(memo, trial.config) if memo else self._params_of(trial.config)
                _check_contained(params)
            except (SpecError, ValueError, KeyError):
                params = None
            self._restore(trial, params, _cma_state.from_json(memo.get("attrs", {})))

    def _restore(self, trial: PastTrial, params: Params | None, attrs: dict[str, Any]) -> None:
        ended = trial.outcome if trial.outcome and trial.outcome.status not in ("paused", "running") else None
        if ended is None:
            self._add_running(trial.number, trial.config, params or ({}, {}), attrs if params else {})
            if trial.outcome is not None and params is not None:
                self._pause(trial.number, trial.outcome)
        elif params is None:
            self._storage.add(self._study_id, frozen_trial(_FAIL))
        else:
            judged, moved = self._judge(trial.config, ended)
            kept = _cma_state.without_place(attrs) if moved else attrs
            self._storage.add(self._study_id, frozen_trial(judged, moved or params, kept))

    def _remembered(self, memo: Mapping[str, Any], config: Mapping[str, Any]) -> Params:
        params = dict(memo["params"])
        if "distributions" in memo:
            return params, {name: json_to_distribution(text) for name, text in memo["distributions"].items()}
        for name in self._numbered.intersection(params):  # they may have been shown as themselves, in a shorter list
            params[name] = to_raw(self._domains[name], self._space.flatten(config)[name])
        return params, {name: self._distributions[name] for name in params}

    def _params_of(self, config: Mapping[str, Any]) -> Params:
        """Return the parameters of a config as Optuna sees them. SpecError when it is not in the space."""
        values = self._space.flatten(config)
        domains = self._domains
        if self._space.define_by_run:
            domains = {}

            def pick(name: str, domain: Domain) -> Any:
                domains[name] = domain
                return values.get(name, domain.grid(1)[0])

            self._space.build(pick)
        params = {name: to_raw(domains[name], value) for name, value in values.items()}
        return params, {name: distribution_of(domains[name]) for name in values}

    def _add_running(
        self, number: int, config: Mapping[str, Any], params: Params, attrs: Mapping[str, Any] | None = None
    ) -> None:
        at = self._storage.add(self._study_id, frozen_trial(_RUNNING, params, attrs))
        self._running[number] = _Open(at, config)

    def _frozen(self, number: int) -> FrozenTrial:
        """Return the running trial `number` as the study has it."""
        return self._storage.get(self._study_id, self._running[number].at)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep to itself what Optuna's QMC says of conditional parameters: they are drawn at random, as the docs say."""

    def other(record: logging.LogRecord) -> bool:
        return "does not include any conditions" not in record.getMessage()

    logger = logging.getLogger("optuna.samplers._qmc")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's notes on experimental options and new studies to itself, while samplers are built.

    Warning filters and Optuna's level are the process's own, so they are put back at once, under a lock.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
        try:
            yield
        finally:
            optuna.logging.set_verbosity(level)


def _check_arguments(sampler: str, kwargs: Iterable[str]) -> None:
    if sampler not in SAMPLERS:
        hint = did_you_mean(sampler, SAMPLERS)
        raise SpecError(f"there is no sampler {sampler!r}{hint}; there are {', '.join(SAMPLERS)}")
    known = [name for name in inspect.signature(SAMPLERS[sampler]).parameters if name != "seed"]
    for name in kwargs:
        if name == "seed":
            raise SpecError(f"{sampler}(seed=...): the seed is the search's own; give it there")
        if name not in known:
            hint = did_you_mean(name, known)
            raise SpecError(f"{sampler} has no argument {name!r}{hint}; it takes {', '.join(known)}")
