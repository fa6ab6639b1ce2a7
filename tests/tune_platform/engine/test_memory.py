"""What a searcher knew where a log ends."""

from __future__ import annotations

from typing import Any

from tune_platform.engine.memory import Memory
from tune_platform.protocol.commands import Ask, Tell
from tune_platform.protocol.events import Suggested
from tune_platform.protocol.searcher import Outcome, PastTrial

NOBODY: Any = None  # the controller is looked at for failed trials alone


def ask(number: int) -> Ask:
    return Ask(trial=number)


def tell(number: int, status: str = "completed") -> Tell:
    outcome = Outcome(status, 0.5, 4, (0.5,), {"x": 0.1}, 2.0, ((1.0, 0.7), (2.0, 0.5)))
    return Tell(trial=number, outcome=outcome)


def suggested(number: int, origin: str = "searcher") -> Suggested:
    memo = {"n": number} if origin == "searcher" else None
    return Suggested(time=0.0, trial=number, config={"x": number}, memo=memo, origin=origin)


def fold(*calls: Ask | Tell | Suggested) -> Memory:
    memory = Memory()
    for call in calls:
        if isinstance(call, Suggested):
            memory.note_event(call, NOBODY)
        else:
            memory.note_commands([call])
    return memory


def test_the_oldest_ask_without_an_answer_parts_past_and_owed() -> None:
    memory = fold(
        ask(0), ask(1), ask(2), suggested(0), tell(0, "paused"), suggested(1), tell(1), tell(0), suggested(3, "user"),
        ask(4),
    )  # fmt: skip
    assert memory.past() == [PastTrial(n, {"x": n}, {"n": n}) for n in (0, 1)]
    assert list(memory.owed) == [ask(2), tell(0, "paused"), tell(1), tell(0), suggested(3, "user"), ask(4)]


def test_the_last_outcome_counts_whole() -> None:
    memory = fold(ask(0), suggested(0), tell(0, "paused"), tell(0, "stopped"), suggested(1, "user"), tell(1))
    assert memory.past() == [
        PastTrial(0, {"x": 0}, {"n": 0}, tell(0, "stopped").outcome),
        PastTrial(1, {"x": 1}, None, tell(1).outcome),
    ]
    assert not memory.owed


def test_what_came_of_trials_from_before_a_snapshot() -> None:
    memory = fold(tell(3, "paused"), ask(7), suggested(7), tell(2), tell(3), tell(7), ask(8), tell(1))
    assert memory.past() == [PastTrial(7, {"x": 7}, {"n": 7}, tell(7).outcome)]
    assert memory.later() == [tell(2), tell(3)]
    assert list(memory.owed) == [ask(8), tell(1)]
