"""Ray Tune's schedulers, and users' own for it, in a search of ours: `SearchSpec(scheduler=MyScheduler())`."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Mapping
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Decision, Decisions, Pause, Stop
from tune_platform.ray_tune.schedulers import scheduler_of
from tune_platform.ray_tune.seeding import drawn_from
from tune_platform.ray_tune.session import trial_id

_LOG = logging.getLogger("tune_platform")
_STEP = "training_iteration"
#: Waiting trials that a rule is shown at once.
_SHOWN = 100
#: Ray Tune's own whose work is done by its controller, not by the rule: they are ours, or refused.
_OURS = ("PopulationBasedTraining", "PB2", "HyperBandForBOHB")
_REFUSED = {
    "PopulationBasedTrainingReplay": "scheduler='replay' goes on with the schedule of an experiment of ours",
    "ResourceChangingScheduler": "a scheduler of ours may answer Resize(resources, reason): docs/schedulers.md",
}


def scheduler_from(given: Any) -> Any:
    """Return one of Ray Tune's schedulers as one of ours: itself, wrapped, or ours where it changes configs.

    Raises SpecError, with what to do instead, for what can be neither.
    """
    kind = type(given)
    if kind.__module__.startswith("ray.tune") and kind.__name__ in _OURS:
        return scheduler_of(given)
    for base in kind.__mro__:
        if base.__module__.startswith("ray.tune") and base.__name__ in (*_OURS, *_REFUSED):
            instead = _REFUSED.get(base.__name__, "its rule is ours: write one with tune_platform.schedulers.PBT")
            raise SpecError(f"{kind.__name__} needs Ray Tune's own controller; {instead}")
    return TheirScheduler(given)


class _Trial:
    """What a rule of Ray Tune's may read of a trial."""

    is_saving = False

    def __init__(self, number: int, config: Mapping[str, Any]) -> None:
        self.number, self.trial_id, self.config = number, trial_id(number), dict(config)
        self.status = "PENDING"
        self.last_result: dict[str, Any] = {}
        self.ends = False  # the rule has stopped it

    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.ends

    def __str__(self) -> str:
        return f"trial_{self.trial_id}"


class _Controller:
    """What a rule may ask of Ray Tune's controller: the trials, and to stop or pause one that is not reporting."""

    def __init__(self, rule: Any) -> None:
        self._rule = rule
        self.live: dict[int, _Trial] = {}
        self.shown: list[_Trial] | None = None
        self.asked: list[Decision] = []

    def get_trials(self) -> list[_Trial]:
        """Return the trials that have not ended: what has ended no rule asks for."""
        return list(self.live.values()) if self.shown is None else self.shown

    get_live_trials = get_trials

    def stop_trial(self, trial: _Trial) -> None:
        """Stop a trial; the rule hears of it at once, as from Ray Tune's."""
        if trial.ends:
            return
        trial.ends = True
        if trial.status == "RUNNING" and trial.last_result:
            self._rule.on_trial_complete(self, trial, trial.last_result)
        else:
            self._rule.on_trial_remove(self, trial)
        self.asked.append(Decision(trial.number, Stop(reason=f"Ray Tune's {type(self._rule).__name__} stopped it")))

    def pause_trial(self, trial: _Trial, *_: Any, **__: Any) -> None:
        """Pause a trial."""
        trial.status = "PAUSED"
        self.asked.append(Decision(trial.number, Pause(reason=f"Ray Tune's {type(self._rule).__name__} paused it")))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"Ray Tune's controller has no {name!r} here; a scheduler may ask for get_trials(), get_live_trials(), "
            "stop_trial(trial) and pause_trial(trial)"
        )


class TheirScheduler:
    """A scheduler of Ray Tune's behind our interface, asked after each report, which the worker waits for.

    A resumed search tells it the history again, so what it does is a function of the log where its rule is one of what
    it is told and of `random` and `numpy.random`, which are seeded for each of its calls.
    """

    def __init__(self, given: Any) -> None:
        self._given = given
        self._name = type(given).__name__
        attribute = str(getattr(given, "_time_attr", _STEP))
        self.resource = "step" if attribute == _STEP else attribute

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Begin with a rule that has heard nothing. Raises SpecError where it was made for another objective."""
        self._rule: Any = copy.deepcopy(self._given)
        self._seed, self._calls, self._supply_ended = seed, 0, False
        self._controller = _Controller(self._rule)
        taken = self._rule.set_search_properties(metric, mode)
        for own, name, asked in (("_metric", "metric", metric), ("_mode", "mode", mode)):
            has = getattr(self._rule, own, asked)
            if not taken and has not in (None, asked):
                raise SpecError(f"scheduler: {self._name} was made with {name}={has!r}, the search has {asked!r}")
        _LOG.info("the scheduler is Ray Tune's %s as it is; on resume it is told the history again", self._name)

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the next report."""
        return self._following(trial.last), False

    def choose(self, candidates: Candidates) -> int | None:
        """Ask the rule which of the trials that fit should run."""
        waiting = [view.number for view in itertools.islice(candidates.waiting(), _SHOWN)]
        live = self._controller.live
        shown = [live[number] for number in waiting if number in live]
        before = {each: each.status for each in shown}
        for each in shown:
            each.status = "PENDING"
        shown += [
            each for number, each in live.items() if each.status == "PAUSED" and candidates.paused(number) is not None
        ]
        self._controller.shown = shown
        try:
            for _ in range(len(live) + 1):
                chosen = self._rule.choose_trial_to_run(self._controller)
                if chosen is None:
                    return self._left(waiting, candidates)
                if chosen in shown:
                    return int(chosen.number)
                before[chosen] = chosen.status  # it does not fit now: another one
                chosen.status = "RUNNING"
            return None
        finally:
            self._controller.shown = None
            for each, status in before.items():
                each.status = status

    def _left(self, waiting: list[int], candidates: Candidates) -> int | None:
        """Return a trial that stands otherwise than the rule decided: a person, or an earlier release, saw to that."""
        live = self._controller.live
        paused = (n for n, each in live.items() if each.status == "RUNNING" and candidates.paused(n) is not None)
        return next(paused, next((n for n in waiting if n not in live or live[n].ends), None))

    def on_add(self, trial: TrialView) -> Decisions:
        """Pass on."""
        self._supply_ended = False
        one = self._controller.live[trial.number] = _Trial(trial.number, trial.config)
        self._call("on_trial_add", one)
        return self._asked()

    def on_start(self, trial: TrialView) -> None:
        """Note that it runs."""
        self._controller.live[trial.number].status = "RUNNING"

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """Ask the rule."""
        one = self._controller.live[trial.number]
        if one.ends:
            return self._stop(one)
        one.config, one.status = dict(trial.config), "RUNNING"
        one.last_result = {
            "done": False, "config": one.config, "timestamp": report.time, **report.metrics, _STEP: report.step,
            "trial_id": one.trial_id,
        }  # fmt: skip
        answer = self._call("on_trial_result", one, one.last_result)
        mine: list[Decision] = []
        if answer == "STOP":
            one.ends = True
            mine = [Decision(trial.number, self._stop(one))]
            self._call("on_trial_complete", one, one.last_result)
        elif answer == "PAUSE":
            one.status = "PAUSED"
            mine = [Decision(trial.number, Pause(reason=f"Ray Tune's {self._name} paused it"))]
        return [*mine, *self._asked()]

    def on_end(self, trial: TrialView, status: str) -> Decisions:
        """Pass on, unless the rule ended it itself."""
        one = self._controller.live.pop(trial.number)
        if not one.ends:
            one.ends = True
            if status == "failed":
                self._call("on_trial_error", one)
            elif one.status == "RUNNING" and one.last_result:
                self._call("on_trial_complete", one, one.last_result)
            else:
                self._call("on_trial_remove", one)
        return self._asked()

    def on_supply_end(self) -> Decisions:
        """Stop what nobody would ever send on."""
        self._supply_ended = True
        return self._asked()

    def describe(self) -> Mapping[str, Any]:
        """Return what it says of itself."""
        return {"rule": self._name, "state": str(self._rule.debug_string())}

    def _call(self, name: str, *arguments: Any) -> Any:
        self._calls += 1
        with drawn_from(self._seed, self._calls, "theirs"):
            return getattr(self._rule, name)(self._controller, *arguments)

    def _asked(self) -> list[Decision]:
        """Return what the rule has asked for, and the end of the paused ones that Ray Tune would leave for ever."""
        live = [each for each in self._controller.live.values() if not each.ends] if self._supply_ended else []
        if live and all(each.status == "PAUSED" for each in live) and self._call("choose_trial_to_run") is None:
            for each in live:
                self._controller.stop_trial(each)
        asked, self._controller.asked = self._controller.asked, []
        return asked

    def _following(self, last: Report | None) -> float:
        if self.resource == "step":
            return 1.0 + (last.step if last is not None else 0)
        value = last.value(self.resource) if last is not None else None
        return math.nextafter(float(value) if isinstance(value, (int, float)) else 0.0, math.inf)

    def _stop(self, trial: _Trial) -> Stop:
        return Stop(reason=f"Ray Tune's {self._name} stopped it", completed=self._full(trial))

    def _full(self, trial: _Trial) -> bool:
        """Whether a trial has done all that the rule lets any do."""
        most = getattr(self._rule, "_max_t_attr", getattr(self._rule, "_max_t", None))
        come = trial.last_result.get(getattr(self._rule, "_time_attr", _STEP))
        return isinstance(most, (int, float)) and isinstance(come, (int, float)) and come >= most
