"""Holds what a scheduler says today against what the log has: the first difference is worth a warning, no more.

The log's decisions hold. The scheduler was told what happened, so it knows where it stands, whatever it would do now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from tune_platform.engine.clones import can_await, cloneable
from tune_platform.engine.state import State
from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.protocol.effects import Awaits, Decided, Effect, Launched, verdict_to_data
from tune_platform.protocol.events import Event, Reported
from tune_platform.protocol.milestones import bad_metric, stopped_by
from tune_platform.protocol.reports import Report, number
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Verdict


def settle(
    state: State, event: Event, decisions: Sequence[Decision]
) -> tuple[Verdict | None, tuple[str, float] | None, list[Decision]]:
    """Return what follows from a report for its own trial, and the decisions on others.

    That is the verdict (None where its code has ended, or there is none) and the stop condition that was met. The
    first verdict that ends the leg holds: what was trained beyond it is known, but was decided on too late. To go on to
    a milestone that has been passed in the same batch means nothing.
    """
    if not isinstance(event, Reported):
        return None, None, list(decisions)
    own = [decision.verdict for decision in decisions if decision.trial == event.trial]
    others = [decision for decision in decisions if decision.trial != event.trial] if own else list(decisions)
    if event.done:
        return None, None, others
    if state.settings.stop:
        for report in event.reports:
            if met := stopped_by(report, state.settings.stop):
                return None, (met, number(report.value(met)) or 0.0), others
    verdict = next((verdict for verdict in own if not isinstance(verdict, Continue)), own[-1]) if own else None
    if isinstance(verdict, Continue) and behind(state, state.trials[event.trial], verdict.until):
        verdict = None
    return verdict, None, others


def problem(state: State, decision: Decision) -> str:
    """Return why a decision that is not moot cannot be carried out; empty where it can."""
    trial, verdict = state.trials.get(decision.trial), decision.verdict
    if trial is None:
        return "there is no such trial"
    return behind(state, trial, verdict.until) if isinstance(verdict, Continue) else ""


def behind(state: State, trial: Trial, until: float | None) -> str:
    """Return why a milestone cannot be reached; empty where it can."""
    reached = state.reached(trial.last) if trial.last is not None and until is not None else None
    if until is None or reached is None or reached < until:
        return ""
    return f"the milestone {until:g} is not ahead of it: its {state.scheduler.resource} is {reached:g} already"


def moot(state: State, decision: Decision) -> bool:
    """Whether a decision changes nothing: its trial has ended, or goes on anyway, for it is between its milestones."""
    trial = state.trials.get(decision.trial)
    if trial is None:
        return decision.trial <= state.supply.newest
    if trial.status.final:
        return True
    runs = trial.status in (TrialStatus.STARTING, TrialStatus.RUNNING) and not trial.waits
    return runs and isinstance(decision.verdict, Continue)


def pruning(reports: Sequence[Report], metrics: Sequence[str]) -> str:
    """Return why a trial is pruned: the first metric in these reports that is no finite number."""
    for report in reports:
        if (name := bad_metric(report, metrics)) is not None:
            return (
                f"bad_metric: {name!r} is {report.metrics[name]!r} at step {report.step}, which is not a finite number"
            )
    return "bad_metric"


class Comparison:
    """Follows a replay; `difference` is the first one, in words."""

    def __init__(self, state: State) -> None:
        self.difference = ""
        self.off = False  # the log is one of a former release: it does not say who decided, or in which order
        self._state = state
        self._now: deque[Decision] = deque()
        self._chosen: int | None = None

    def begin(self, event: Event, decisions: Sequence[Decision]) -> None:
        """Take what the scheduler says to a fact."""
        if self.difference or self.off:
            return
        verdict, _, others = settle(self._state, event, decisions)
        own = [Decision(event.trial, verdict)] if verdict and isinstance(event, Reported) else []
        self._now = deque([*own, *others])

    def before(self, effect: Effect) -> None:
        """Look at what the log has, before it is applied."""
        if self.difference or self.off:
            return
        if isinstance(effect, Awaits) and effect.lost is not None:
            return  # the engine's
        if isinstance(effect, Awaits) or (isinstance(effect, Decided) and effect.by == "scheduler"):
            self._pass_over()
            now = self._now.popleft() if self._now else None
            then = Decision(effect.trial, effect.verdict)
            if now is None or not _same(now, then):
                self._note(now, then)
        elif isinstance(effect, Decided):
            trial = self._state.trials[effect.trial]
            if trial.status is TrialStatus.PAUSED and isinstance(effect.verdict, Continue):
                if effect.trial in self._state.awaiting or self._unclonable(effect.trial):
                    return
                self._compare_choice(effect.trial)
                self._chosen = effect.trial
        elif isinstance(effect, Launched) and not self._state.trials[effect.trial].status.placed:
            if effect.trial != self._chosen and effect.trial not in self._state.returning:
                self._compare_choice(effect.trial)
            self._chosen = None

    def after(self, decisions: Sequence[Decision]) -> None:
        """Take what the scheduler says to an effect."""
        if not (self.difference or self.off):
            self._now.extend(decisions)

    def end(self) -> None:
        """See whether something is left that the log does not have."""
        if self.difference or self.off:
            return
        self._pass_over()
        if self._now:
            self._note(self._now[0], None)
        self._now.clear()

    def _pass_over(self) -> None:
        """Leave out what is not carried out, and so not logged, or logged as something else."""
        while self._now and (moot(self._state, self._now[0]) or self._no_source(self._now[0])):
            self._now.popleft()

    def _unclonable(self, trial: int) -> bool:
        """Whether a trial goes on only because there is nothing that it could be a clone of."""
        while self._now and moot(self._state, self._now[0]):
            self._now.popleft()
        found = bool(self._now) and self._now[0].trial == trial and self._no_source(self._now[0])
        if found:
            self._now.popleft()
        return found

    def _no_source(self, decision: Decision) -> bool:
        if not isinstance(decision.verdict, Clone):
            return False
        state, source = self._state, decision.verdict.source
        return not (can_await(state, decision.trial, source) or cloneable(state, source))

    def _compare_choice(self, then: int) -> None:
        now = self._state.scheduler.choose(self._state.queue)
        if now != then:
            choice = f"choose trial {now}" if now is not None else "choose none"
            self.difference = f"it would {choice} where the log has trial {then}"

    def _note(self, now: Decision | None, then: Decision | None) -> None:
        def text(decision: Decision | None) -> str:
            return f"{decision.verdict} on trial {decision.trial}" if decision else "nothing"

        self.difference = f"it would decide {text(now)} where the log has {text(then)}"


def _same(now: Decision, then: Decision) -> bool:
    """Whether two decisions are the same but for their wording (once written, a tuple is a list)."""
    one, other = verdict_to_data(now.verdict, 0), verdict_to_data(then.verdict, 0)
    one["reason"] = other["reason"] = ""
    return now.trial == then.trial and (one == other or plain(one) == plain(other))


def plain(value: object) -> object:
    """Return a value as it is read back from JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return repr(value) if isinstance(value, float) and value != value else value
