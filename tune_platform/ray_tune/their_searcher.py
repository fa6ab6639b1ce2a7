"""Ray Tune's searchers, and users' own for it, in a search of ours: `SearchSpec(searcher=HyperOptSearch())`."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune_platform.errors import SearcherError, SpecError
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.ray_tune.seeding import drawn_from
from tune_platform.ray_tune.session import trial_id
from tune_platform.ray_tune.their_space import merged, space_for_ray
from tune_platform.space import Space

_LOG = logging.getLogger("tune_platform")
#: The name that Ray Tune gives a metric which has none.
_UNNAMED = "_metric"
#: More trials at once than there ever are.
_MANY = 1_000_000_000
_FINAL = ("completed", "stopped", "failed")
_INSTEAD = {
    "BasicVariantGenerator": "searcher='random', which also takes grid_search",
    "ConcurrencyLimiter": "give the searcher inside it, and max_concurrent",
    "Repeater": "report the mean of several runs from the trainable",
}


class TheirSearcher:
    """A searcher of Ray Tune's behind our interface.

    What it heard before each suggestion is kept in the suggestion's memo, so a resumed search tells it the same again,
    in the same order, and asks for the same suggestions. It goes on exactly as it would have where these come out as
    they are in the log: where it draws from a generator with a seed, or from `random` and `numpy.random`, which are
    seeded for each of its calls. Where they do not, that is said in the log, and it hears no value of those trials.
    Raises SpecError for one that only makes sense in Ray Tune's own loop.
    """

    synchronous = False
    lookahead = 0

    def __init__(self, given: Any) -> None:
        self._name = type(given).__name__
        if type(given).__module__.startswith("tune_platform."):
            raise SpecError(f"{self._name} is a searcher of ours made for Ray Tune; give the one inside it")
        if self._name in _INSTEAD:
            raise SpecError(f"Ray Tune's {self._name} is not needed here: {_INSTEAD[self._name]}")
        if getattr(given, "_outcome_constraints", None):
            raise SpecError(
                f"Ray Tune's {self._name} has outcome_constraints; a searcher here is told of the search's own metrics "
                "alone. Report a metric that is bad where they are not met"
            )
        self._given = given

    def setup(self, space: Space, *, mode: Sequence[str], seed: int) -> None:
        """Begin with one that has heard nothing. Raises SpecError where it cannot search the space."""
        with drawn_from(seed, 0, "their setup"):
            self._theirs: Any = copy.deepcopy(self._given)
            self._fixed = self._prepared(space, list(mode))
            if hasattr(self._theirs, "set_max_concurrency"):
                self._theirs.set_max_concurrency(_MANY)  # the engine counts; to it a paused trial is none that runs
        self._seed, self._space = seed, space
        metric = getattr(self._theirs, "_metric", None) or _UNNAMED
        self._metrics = [metric] if isinstance(metric, str) else list(metric)
        if len(self._metrics) != len(mode):
            raise SpecError(f"{self._name} has {len(self._metrics)} metrics, the search {len(mode)}")
        self._waiting: dict[int, Outcome] = {}  # heard since the last suggestion: the newest of each trial
        self._told: dict[int, int] = {}  # how many rungs of each trial that has not ended it knows
        self._suggested: dict[int, dict[str, Any]] = {}  # by itself, of trials that have not ended
        _LOG.info(
            "the searcher is Ray Tune's %s as it is; a resumed search is exact as long as it suggests the same again",
            self._name,
        )

    def _prepared(self, space: Space, modes: list[str]) -> Mapping[str, Any]:
        """Tell it the objective and the space; return what every config has beside its suggestions."""
        given = getattr(self._theirs, "_mode", None)
        asked: Any = modes[0] if len(modes) == 1 else modes
        if given is not None and given != asked:
            raise SpecError(f"{self._name} was made with mode={given!r}, the search has {asked!r}")
        metric: Any = getattr(self._theirs, "_metric", None)
        if metric is None:
            metric = "value" if len(modes) == 1 else [f"value_{number}" for number in range(len(modes))]
        own = any(getattr(self._theirs, name, None) for name in ("_space", "domain", "_ax", "_nevergrad_opt"))
        ranges, fixed = ({}, space_for_ray(space, domains=False)[1]) if own else space_for_ray(space)
        try:
            taken = self._theirs.set_search_properties(metric, asked, merged(fixed, ranges) if not own else {})
        except Exception as error:
            raise SpecError(f"Ray Tune's {self._name} does not take this search: {error}") from error
        if not taken and not own and ranges:
            raise SpecError(f"Ray Tune's {self._name} does not take the space: give it one of its own")
        return fixed

    def ask(self, number: int) -> Suggestion | None:
        """Return its next suggestion, after telling it what came since the last one."""
        heard = [[each, *self._tell(each, outcome)] for each, outcome in sorted(self._waiting.items())]
        self._waiting.clear()
        config = self._suggest(number)
        if config is None:
            return None
        return Suggestion(config, {"heard": heard, "theirs": True})

    def _suggest(self, number: int) -> dict[str, Any] | None:
        with drawn_from(self._seed, number, "theirs"):
            found = self._theirs.suggest(trial_id(number))
        if found == "FINISHED":
            return None
        if found is None:
            raise SearcherError(
                f"Ray Tune's {self._name} has no suggestion now ({len(self._suggested)} of its trials have not "
                "ended): give max_concurrent, as many trials at once as it takes"
            )
        config = merged(self._fixed, found)
        with contextlib.suppress(SpecError):  # one with a space of its own, or that does without the steps of ours
            values = self._space.flatten(config)
            config = self._space.build(lambda name, domain: values[name])  # 0.83, not 0.8300000000000001
        self._suggested[number] = config
        return config

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Do nothing: it knows only its own suggestions."""

    def tell(self, number: int, outcome: Outcome) -> None:
        """Keep for the next suggestion what came of a trial, where that is anything new."""
        if number in self._suggested and (
            outcome.status in _FINAL or len(outcome.rungs) > self._told.get(number, 0) or number in self._waiting
        ):
            self._waiting[number] = outcome

    def _tell(self, number: int, outcome: Outcome, rungs: int | None = None, final: bool = True) -> tuple[int, bool]:
        """Tell it of a trial: the first `rungs`, and the end if `final`. Return how much that was."""
        known = self._told.get(number, 0)
        before, new = outcome.rungs[:known], outcome.rungs[known:rungs]
        iteration = math.ceil(before[-1][0]) if before else 0
        self._told[number] = known + len(new)
        ended = final and outcome.status in _FINAL
        name = trial_id(number)
        with drawn_from(self._seed, number, "their tell"):
            for resource, value in new:
                if math.ceil(resource) > iteration:  # it counts iterations, the scheduler perhaps seconds
                    iteration = math.ceil(resource)
                    result = self._result(name, number, iteration, [value])
                    self._theirs.on_trial_result(name, {**result, "hyperband_info": {"budget": resource}})
            if ended:
                values = list(outcome.values) or ([] if outcome.value is None else [outcome.value])
                failed = outcome.status == "failed" or outcome.worst or not values
                last = None if failed else {**self._result(name, number, outcome.step, values), "done": True}
                self._theirs.on_trial_complete(name, result=last, error=failed)
        if ended:
            del self._told[number], self._suggested[number]
        return known + len(new), ended

    def _result(self, name: str, number: int, step: int, values: Sequence[float]) -> dict[str, Any]:
        named = dict(zip(self._metrics, values, strict=False))
        return {
            **named, _UNNAMED: values[0], "training_iteration": step, "trial_id": name,
            "config": self._suggested[number],
        }  # fmt: skip

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Have it suggest and hear again what the log says."""
        outcomes = {trial.number: trial.outcome for trial in past}
        other: list[int] = []
        for trial in past:
            if not (trial.memo or {}).get("theirs"):
                continue  # a start point
            for number, rungs, final in (trial.memo or {}).get("heard", ()):
                outcome = outcomes.get(number)
                if outcome is not None and number in self._suggested:
                    self._tell(number, outcome, rungs, final)
            config = self._suggest(trial.number)
            if config != trial.config:
                other.append(trial.number)
                if config is not None:
                    self._forget(trial.number)
        for number, outcome in outcomes.items():
            if outcome is not None:
                self.tell(number, outcome)
        if other:
            _LOG.warning(
                "Ray Tune's %s does not suggest again what it had suggested (trial %d, %d in all): it draws from a "
                "generator without a seed. It goes on, but not as it would have, without the values of these trials",
                self._name, other[0], len(other),
            )  # fmt: skip

    def _forget(self, number: int) -> None:
        with drawn_from(self._seed, number, "their tell"):
            self._theirs.on_trial_complete(trial_id(number), result=None, error=True)
        del self._suggested[number]
