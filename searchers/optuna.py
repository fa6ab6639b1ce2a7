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
import math
import threading
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from tune_platform.errors import SearcherError, SpecError, did_you_mean
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.protocol.seeds import rng
from tune_platform.searchers import _cma_state
from tune_platform.searchers._optuna_params import distribution_of, suggest, to_raw
from tune_platform.space import Domain, Space

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
    "qmc": optuna.samplers.QMCSampler,
}
#: suggestions that a model may make before a constraint is met by uniform draws instead
_TRIES = 10
_GP_TRIES = 3  # seconds each, and the same optimum again, as a rule
_filters = threading.Lock()


class OptunaSearcher:
    """Asks and tells a sampler of Optuna (5.0) on a study in memory.

    `sampler` is tpe, random, gp, cmaes, nsgaii or qmc, with the sampler's own arguments as keywords, or a
    sampler object. Two defaults differ from Optuna's: TPE is grouped on conditional spaces, QMC is scrambled.
    gp and cmaes model only the parameters that every config has, and cmaes only numbers; the rest is random.

    Completed trials count with their value; stopped ones are PRUNED with the value and step they reached, which
    TPE learns from and the others ignore (in a multi-objective search they count as completed); so are paused ones for
    TPE and a sampler object, until they are told of again, while the others see them as running;
    failed ones, and values that are None or not finite, are FAIL and forgotten. Running trials are in
    the study, so that TPE and gp suggest something different meanwhile.

    A suggestion that breaks a constraint is told as FAIL; after ten (three of gp), a config is drawn at random.
    TPE with 2,000 trials takes about 30 ms for a suggestion, gp grows with the cube: `synchronous` is False.
    """

    lookahead: int | None = 0

    def __init__(self, sampler: str | BaseSampler = "tpe", **sampler_kwargs: Any) -> None:
        self.synchronous = sampler == "random"
        self._name, self._own, self._kwargs = None, None, sampler_kwargs
        if isinstance(sampler, str):
            self._name = sampler
            _check_arguments(sampler, sampler_kwargs)
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
        self._storage = _Storage()
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
        self._count = 0  # trials in the study
        self._running: dict[int, int] = {}  # our numbers of the running trials, and the study's

    # ------------------------------------------------------------------------------------ ask

    def ask(self, number: int) -> Suggestion:
        """Suggest the config of trial `number`. SpecError when no config meets the constraints."""
        attrs_before = self._storage.get_study_system_attrs(self._study_id)
        tries = _GP_TRIES if self._name == "gp" else _TRIES
        for attempt in range(tries):
            if self._own is None:
                self._study.sampler = self._build_sampler(number, attempt)
            trial = self._study.ask()
            self._count += 1
            try:
                config = self._space.build(partial(suggest, trial))
                satisfied = self._space.satisfied(config)
            except BaseException:
                self._study.tell(trial, state=TrialState.FAIL)
                raise
            if satisfied:
                frozen = self._frozen(trial.number)
                self._running[number] = trial.number
                return Suggestion(config, self._memo(frozen, attempt, attrs_before))
            self._study.tell(trial, state=TrialState.FAIL)
        config, params, distributions = self._draw(number)
        self._add(number, TrialState.RUNNING, params, distributions)
        frozen = self._frozen(self._running[number])
        return Suggestion(config, self._memo(frozen, tries, attrs_before))

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

    def _draw(self, number: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, BaseDistribution]]:
        """Draw a config at random, for the model suggests only what the constraints forbid."""
        generator = rng(self._seed, number, "uniform")
        for _ in range(1000):
            picked: dict[str, tuple[Domain, Any]] = {}

            def pick(name: str, domain: Domain, picked: dict[str, Any] = picked) -> Any:
                picked[name] = domain, domain.sample(generator)
                return picked[name][1]

            config = self._space.build(pick)
            if self._space.satisfied(config):
                params = {name: to_raw(domain, value) for name, (domain, value) in picked.items()}
                return config, params, {name: distribution_of(domain) for name, (domain, _) in picked.items()}
        self._space.sample(generator)  # raises, and says which constraint
        raise SearcherError("no config meets the constraints")

    def _memo(self, frozen: FrozenTrial, skipped: int, before: Mapping[str, Any]) -> dict[str, Any]:
        """Write down what the study knows of a suggestion, and what the suggestion changed in the study."""
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
        self._add(number, TrialState.RUNNING, *self._params_of(config))

    def tell(self, number: int, outcome: Outcome) -> None:
        """Hear how a trial ended, or stands while it is paused. SearcherError for a trial that does not run."""
        if number not in self._running:
            raise SearcherError(f"trial {number} was told to the searcher, but it is not running there")
        if outcome.status == "paused":
            self._pause(self._running[number], outcome)
            return
        at = self._running.pop(number)
        self._storage.paused.pop(at, None)
        state, values, steps = self._judge(outcome)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, at)
        for step, value in steps.items():
            self._storage.set_trial_intermediate_value(trial_id, step, value)
        self._study.tell(at, values=values if state is TrialState.COMPLETE else None, state=state)

    def _judge(self, outcome: Outcome) -> tuple[TrialState, list[float] | None, dict[int, float]]:
        """Return Optuna's state, values and intermediate values for an outcome."""
        values = list(outcome.values) if self._objectives > 1 else [outcome.value]
        good = [float(value) for value in values if value is not None and math.isfinite(value)]
        if outcome.status == "failed" or len(good) != self._objectives:
            return TrialState.FAIL, None, {}
        if outcome.status in ("stopped", "paused") and self._objectives == 1:
            return TrialState.PRUNED, good, {outcome.step: good[0]}
        return TrialState.COMPLETE, good, {}

    def _pause(self, at: int, outcome: Outcome) -> None:
        """Show a running trial of the study as pruned where it stands, to the samplers that learn from pruned ones."""
        state, values, steps = self._judge(outcome)
        if state is TrialState.PRUNED and values is not None and self._name in ("tpe", None):
            frozen = copy.copy(self._frozen(at))
            frozen.state, frozen.value, frozen.intermediate_values = state, values[0], steps
            frozen.datetime_complete = frozen.datetime_start
            self._storage.paused[at] = frozen

    # ------------------------------------------------------------------------------------ restore

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Put the study together again, in time linear in the past.

        A trial that no longer fits the space (it was changed on resume) is kept as a failed one.
        """
        for trial in sorted(past, key=lambda trial: trial.number):
            memo = trial.memo or {}
            for _ in range(memo.get("skipped", 0)):
                self._add(None, TrialState.FAIL, {}, {})
            for key, value in memo.get("study", {}).items():
                self._storage.set_study_system_attr(self._study_id, key, value)
            ended = trial.outcome if trial.outcome and trial.outcome.status != "paused" else None
            state, values, steps = self._judge(ended) if ended else (TrialState.RUNNING, None, {})
            attrs = _cma_state.from_json(memo.get("attrs", {}))
            try:
                params, distributions = self._params_of(trial.config) if not memo else self._remembered(memo)
                self._add(trial.number, state, params, distributions, values, steps, attrs)
            except (SpecError, ValueError, KeyError):
                self._add(trial.number, TrialState.FAIL if ended else TrialState.RUNNING, {}, {})
                continue
            if trial.outcome is not None and not ended:
                self._pause(self._running[trial.number], trial.outcome)

    def _remembered(self, memo: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        params = dict(memo["params"])
        if "distributions" in memo:
            return params, {name: json_to_distribution(text) for name, text in memo["distributions"].items()}
        return params, {name: self._distributions[name] for name in params}

    def _params_of(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Return the parameters of a config as Optuna sees them."""
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

    def _add(
        self,
        number: int | None,
        state: TrialState,
        params: dict[str, Any],
        distributions: dict[str, BaseDistribution],
        values: list[float] | None = None,
        steps: Mapping[int, float] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a trial into the study; `number` is None for one that stands only for a rejected suggestion."""
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=values,
                params=params,
                distributions=distributions,
                intermediate_values=dict(steps or {}),
                system_attrs=dict(attrs or {}),
            )
        )
        if number is not None and state is TrialState.RUNNING:
            self._running[number] = self._count
        self._count += 1

    def _frozen(self, at: int) -> FrozenTrial:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, at)
        return self._storage.get_trial(trial_id)


class _Storage(optuna.storages.InMemoryStorage):
    """A study in memory whose paused trials look as pruned ones do, while they still run and can be told of again."""

    def __init__(self) -> None:
        super().__init__()
        self.paused: dict[int, FrozenTrial] = {}  # by their numbers in the study

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in the order of their numbers."""
        if not self.paused or states == (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        shown = [self.paused.get(t.number, t) for t in super().get_all_trials(study_id, deepcopy=False)]
        found = [trial for trial in shown if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


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
