"""Our schedulers in a plain `ray.tune.Tuner`: `TuneConfig(scheduler=as_scheduler("pasha"))`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from tune_platform.errors import SpecError
from tune_platform.protocol.reports import Report, finite
from tune_platform.protocol.scheduler import Scheduler, TrialView, decisions_of
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Pause, Resize, Stop
from tune_platform.spec.parts import build_scheduler


@dataclass(eq=False)
class _View:
    """What our scheduler may know of one of Ray Tune's trials."""

    number: int
    trial: Any  # Ray Tune's own
    config: Mapping[str, Any]
    last: Report | None = None
    sent_on: bool = False  # paused, and to go on as soon as there is a place
    verdict: Stop | Pause | None = None  # decided while it ran: it takes effect at its next report
    stopped: bool = False  # by the scheduler, because others are better


class _Candidates:
    """The trials of Ray Tune's controller that could take a place now."""

    def __init__(self, views: Iterable[_View]) -> None:
        known = [(view, view.trial.status) for view in views]
        self._waiting = [view for view, status in known if status == Trial.PENDING or _sent_on(view, status)]
        self._paused = {view.number: view for view, status in known if status == Trial.PAUSED and not view.sent_on}

    def waiting(self) -> Iterator[TrialView]:
        return iter(sorted(self._waiting, key=lambda view: view.number))

    def paused(self, number: int) -> TrialView | None:
        return self._paused.get(number)


class AsScheduler(TrialScheduler):  # type: ignore[misc, unused-ignore]
    """One of our schedulers behind Ray Tune's interface; `as_scheduler` makes it.

    Trials are numbered in the order in which Ray Tune adds them. A verdict on another trial that runs takes effect at
    that one's next report. Ray Tune does not keep a scheduler's state: after a restore it begins anew with the trials
    that are left, whose last reports it is told.
    """

    def __init__(self, scheduler: Scheduler, seed: int) -> None:
        super().__init__()
        self._scheduler, self._seed = scheduler, seed
        self._views: dict[str, _View] = {}
        self._by_number: dict[int, _View] = {}
        self._chosen: _View | None = None
        self._told_end = False

    def set_search_properties(self, metric: str | None, mode: str | None, **_: Any) -> bool:
        """Take the metric and the mode of the search."""
        if not metric or mode not in ("min", "max"):
            raise SpecError(
                f"as_scheduler: metric: got {metric!r}, mode: got {mode!r}; give both to TuneConfig, mode as 'min' "
                "or 'max'"
            )
        self._metric = metric
        self._scheduler.setup(metric=metric, mode=mode, seed=self._seed)
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Give the trial a number, and tell the scheduler of it."""
        if trial.trial_id in self._views:
            return
        view = _View(len(self._views), trial, dict(trial.config))
        self._views[trial.trial_id] = self._by_number[view.number] = view
        self._act(tune_controller, decisions_of(self._scheduler, self._scheduler.on_add(view), view.number))
        if trial.last_result:
            self._report(tune_controller, view, trial.last_result)
            view.verdict = None  # it was decided on in the run before

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Tell the scheduler of a report, and return its verdict on that trial."""
        view = self._views.get(trial.trial_id)
        if view is None:
            return str(TrialScheduler.CONTINUE)
        view.trial = trial
        self._report(tune_controller, view, result)
        verdict, view.verdict = view.verdict, None
        if isinstance(verdict, Stop):
            view.stopped = not verdict.completed
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.PAUSE if isinstance(verdict, Pause) else TrialScheduler.CONTINUE)

    def _report(self, tune_controller: Any, view: _View, result: Mapping[str, Any]) -> None:
        step = int(result.get("training_iteration", 0))
        if view.last is not None and step <= view.last.step:
            return  # done again, after a checkpoint was loaded
        view.last = Report(step, dict(result), float(result.get("timestamp", 0)))
        if finite(result.get(self._metric)) is not None:
            answer = self._scheduler.on_report(view, view.last)
            self._act(tune_controller, decisions_of(self._scheduler, answer, view.number), own=view)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tell the scheduler that the trial has ended."""
        view = self._views.get(trial.trial_id)
        self._end(tune_controller, trial, "stopped" if view is not None and view.stopped else "completed")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the scheduler that the trial has failed."""
        self._end(tune_controller, trial, "failed")

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Tell the scheduler that the trial was stopped while it waited."""
        self._end(tune_controller, trial, "stopped")

    def _end(self, tune_controller: Any, trial: Any, status: str) -> None:
        view = self._views.get(trial.trial_id)
        if view is not None and self._by_number.pop(view.number, None) is not None:
            self._act(tune_controller, decisions_of(self._scheduler, self._scheduler.on_end(view, status)))

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the trial that the scheduler gives the next place; the same until it runs."""
        chosen = self._chosen
        if chosen is not None and chosen.trial.status in (Trial.PENDING, Trial.PAUSED):
            return chosen.trial
        self._chosen = None
        if not self._told_end and tune_controller.search_alg.is_finished():
            self._told_end = True
            self._act(tune_controller, decisions_of(self._scheduler, self._scheduler.on_supply_end()))
        number = self._scheduler.choose(_Candidates(self._by_number.values()))
        view = self._by_number.get(number) if number is not None else None
        if view is None:
            self._stop_what_nobody_sends_on(tune_controller)
            return None
        self._chosen, view.sent_on = view, False
        self._scheduler.on_start(view)
        return view.trial

    def _stop_what_nobody_sends_on(self, tune_controller: Any) -> None:
        """End the paused trials once no other can run or come any more: Ray Tune would wait for ever."""
        trials = [view.trial for view in self._by_number.values()]
        if self._told_end and not any(trial.status in (Trial.PENDING, Trial.RUNNING) for trial in trials):
            for trial in trials:
                if trial.status == Trial.PAUSED:
                    tune_controller.stop_trial(trial)

    def _act(self, tune_controller: Any, decisions: Sequence[Decision], own: _View | None = None) -> None:
        for number, verdict in ((decision.trial, decision.verdict) for decision in decisions):
            if isinstance(verdict, (Clone, Resize)):
                raise SpecError(
                    f"as_scheduler: {type(self._scheduler).__name__} decided {verdict}, which a scheduler of Ray "
                    "Tune cannot; run the search with tune_platform.run, or tune_platform.ray_tune.Tuner"
                )
            view = self._by_number.get(number)
            if view is None:
                continue
            trial = view.trial
            waits = view is not own and trial.status in (Trial.PENDING, Trial.PAUSED)
            if isinstance(verdict, Continue):
                view.sent_on = view.sent_on or (waits and trial.status == Trial.PAUSED)
            elif not waits:
                view.verdict = verdict
            elif isinstance(verdict, Stop):
                tune_controller.stop_trial(trial)

    def debug_string(self) -> str:
        """Return one line for Ray Tune's tables."""
        return f"{type(self._scheduler).__name__} of tune_platform: {self._scheduler.describe()}"


def as_scheduler(scheduler: Any, *, seed: int = 0) -> AsScheduler:
    """Return a `scheduler` for `ray.tune.TuneConfig` out of one of ours: an object, a name, or {name: ...}.

    Raises SpecError for one that changes configs or copies checkpoints between trials (PBT and its kin): a scheduler of
    Ray Tune can say continue, pause and stop, no more.
    """
    made = build_scheduler(scheduler)
    if getattr(made, "needs_checkpoints", False):
        raise SpecError(
            f"as_scheduler: {type(made).__name__} has trials go on from each other's checkpoints or at its own pace, "
            "and a scheduler of Ray Tune can only say continue, pause and stop; run the search with "
            "tune_platform.run, or tune_platform.ray_tune.Tuner"
        )
    return AsScheduler(made, seed)


def _sent_on(view: _View, status: str) -> bool:
    return bool(status == Trial.PAUSED and view.sent_on)
