"""The contract finds the mistakes that it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import TinyPBT
from tune_platform.errors import SchedulerError
from tune_platform.protocol.reports import Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Decisions, Pause, Stop
from tune_platform.schedulers import ASHA, FIFO
from tune_platform.testing.schedulers import SchedulerContract

CASES: dict[str, Callable[[Any], Any]] = {
    "rules": lambda contract: contract.test_decisions_keep_the_rules(0, "min"),
    "anything": lambda contract: [contract.test_anything_may_happen_at_any_moment(seed) for seed in range(6)],
    "history": lambda contract: [contract.test_being_told_the_history_rebuilds_it(seed) for seed in range(6)],
    "state": lambda contract: [contract.test_its_state_stands_for_the_history(seed) for seed in range(6)],
    "otherwise": lambda contract: [contract.test_it_bears_a_log_that_decided_otherwise(seed) for seed in range(16)],
    "setup": lambda contract: contract.test_setup_starts_from_nothing(),
    "protocol": lambda contract: contract.test_it_has_what_the_engine_calls(),
}


class Promotes(ASHA):
    """The first protocol's way: it notes the promotion when it is asked."""

    def __init__(self) -> None:
        super().__init__(max=9, type="promotion")

    def choose(self, candidates: Candidates) -> int | None:
        number = super().choose(candidates)
        if number is not None:
            self._promote(number)
        return number


class Counts(FIFO):
    asked = 0

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        self.asked += 1
        return float(self.asked + 100), False


class Tires(FIFO):
    """Starts nothing any more once three trials have ended."""

    ended = 0

    def on_end(self, trial: TrialView, status: str) -> None:
        self.ended += 1

    def choose(self, candidates: Candidates) -> int | None:
        return super().choose(candidates) if self.ended < 3 else None


class Behind(FIFO):
    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        return (trial.last.step if trial.last else 1), False


class Answers(FIFO):
    """Answers each report with the same."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def on_report(self, trial: TrialView, report: Report) -> Any:
        return self.answer


class Starts(FIFO):
    def on_start(self, trial: TrialView) -> None:
        return Stop(reason="too early")  # type: ignore[return-value]


class Chooses(FIFO):
    def choose(self, candidates: Candidates) -> int | None:
        return 0 if next(candidates.waiting(), None) is not None else None


class Trusts(TinyPBT):
    """Takes it that each trial has a score that was started, whoever has decided."""

    def on_end(self, trial: TrialView, status: str) -> None:
        del self.scores[trial.number]


class Waits(FIFO):
    """Pauses a trial at its first report until all have come so far, and forgets that some never do."""

    def __init__(self) -> None:
        self.setup(metric="", mode="", seed=0)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        self.seen: set[int] = set()
        self.added: set[int] = set()

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        return (1, True) if trial.last is None else (None, False)

    def on_add(self, trial: TrialView) -> None:
        self.added.add(trial.number)

    def on_report(self, trial: TrialView, report: Report) -> Any:
        if report.step > 1:
            return None
        self.seen.add(trial.number)
        return Pause(reason="waits for the others")

    def choose(self, candidates: Candidates) -> int | None:
        if len(self.seen) >= 10:
            return next((n for n in sorted(self.seen) if candidates.paused(n)), None) or super().choose(candidates)
        return None if len(self.added) >= 10 else super().choose(candidates)


class Leaks(ASHA):
    """Keeps something over `setup`."""

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        rungs = getattr(self, "_rungs", [])
        super().setup(metric=metric, mode=mode, seed=seed)
        self._rungs = rungs


class Forgets(ASHA):
    """Its state lacks who was promoted."""

    def __init__(self) -> None:
        super().__init__(max=9, type="promotion")

    def state(self) -> Any:
        return {"rungs": [{**rung, "promoted": ""} for rung in super().state()["rungs"]]}


class Chances(FIFO):
    """Draws from what is not derived from the seed."""

    made = 0

    def __init__(self) -> None:
        Chances.made += 1
        self.mine = Chances.made

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        return Stop(reason="bad luck") if (report.step + self.mine) % 7 == 0 else None


class Remembers(ASHA):
    """Believes that what it has answered is what happened."""

    def __init__(self) -> None:
        super().__init__(max=9, type="promotion")

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        super().setup(metric=metric, mode=mode, seed=seed)
        self.paused: set[int] = set()

    def on_start(self, trial: TrialView) -> None:
        super().on_start(trial)
        self.paused.discard(trial.number)

    def on_report(self, trial: TrialView, report: Report) -> Any:
        assert trial.number not in self.paused, "it is paused"
        answer = super().on_report(trial, report)
        if isinstance(answer, Pause):
            self.paused.add(trial.number)
        return answer


class Half(FIFO):
    load_state = property()


@pytest.mark.parametrize(
    ("make", "case", "words"),
    [
        (Promotes, "rules", r"choose\(\) is a question"),
        (Counts, "rules", r"until\(trial 0\) is a question, but answers \(101.0, False\) first"),
        (Tires, "rules", "the scheduler Referee lets none of"),
        (Behind, "rules", "milestone"),
        (lambda: Answers(Stop(reason="")), "rules", "it has no reason"),
        (lambda: Answers(Continue(until=99, reason="on")), "rules", "between the milestones of trial 0"),
        (lambda: Answers([Decision(99, Stop(reason="none"))]), "rules", "decided .* on trial 99: there is no such"),
        (lambda: Answers(Clone(source=99, config={}, until=99, reason="x")), "rules", "source does not exist"),
        (lambda: Answers([Stop(reason="which?")]), "rules", r"a list of Decision\(trial, verdict\)"),
        (Starts, "rules", "on_start decides nothing"),
        (Chooses, "rules", "trial 0, which is not among the candidates"),
        (Trusts, "anything", "[0-9]"),
        (Waits, "anything", "the scheduler Referee lets none of"),
        (Leaks, "setup", "setup leaves something over"),
        (Forgets, "state", "(state )?after (the first )?[0-9]+ facts"),
        (Chances, "history", "told the first .* facts: it would decide"),
        (Remembers, "otherwise", "it is paused"),
        (Half, "protocol", "state and load_state go together"),
    ],
)
def test_a_mistake_is_found(make: Any, case: str, words: str) -> None:
    class Contract(SchedulerContract):
        def make_scheduler(self) -> Any:
            return make()

    with pytest.raises((AssertionError, SchedulerError, TypeError, KeyError), match=words):
        CASES[case](Contract())
