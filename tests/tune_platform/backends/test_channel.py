"""Between the training thread and the driver's calls: two threads, and whatever order they come in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tune_platform.backends import _channel
from tune_platform.backends._batch import Answer, Failure
from tune_platform.backends._channel import Asked, Channel, Sent
from tune_platform.backends._writer import Written
from tune_platform.protocol.events import Failed, Reported, Saved, Started
from tune_platform.protocol.reports import CheckpointRef, Report

_PATIENCE_S = 60.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def report(step: int) -> Report:
    return Report(step, {"loss": 1 / step}, 0.0)


def ref(step: int, trial: int = 7) -> CheckpointRef:
    return CheckpointRef(trial, step, f"c/{trial}/{step}")


def begun(flush_s: float = 0.0, order: int = 1) -> Channel:
    channel = Channel()
    assert channel.begin(order, 7, 1, flush_s)
    return channel


def steps(sent: Sent | None) -> list[int]:
    assert sent is not None
    return [one.step for one in sent.batch.reports]


def waiting(call: Callable[[], Any], pool: ThreadPoolExecutor) -> Future[Any]:
    """Call in a thread; return once it waits, as far as can be told."""
    future = pool.submit(call)
    time.sleep(0.1)
    assert not future.done()
    return future


class Writing:
    def __init__(self) -> None:
        self.writing = True
        self.done: list[Written] = []

    def is_writing(self, trial: int) -> bool:
        return self.writing

    def late(self) -> list[Written]:
        done, self.done = self.done, []
        return done


def test_a_short_leg_is_one_batch() -> None:
    channel = begun(flush_s=60.0)
    for step in (1, 2, 3):
        channel.put(report(step))
    assert channel.finish("waiting", None)
    sent = channel.last_batch()
    assert sent is not None
    assert (steps(sent), sent.batch.state, sent.number, sent.order, sent.more) == ([1, 2, 3], "waiting", 1, 1, False)
    assert [type(event) for event in sent.batch.events(0.0)] == [Reported]
    assert channel.collect(1) is None


def test_the_start_is_collected_at_once_and_reports_at_the_flush() -> None:
    channel = begun(flush_s=0.2)
    started = channel.collect(1)
    assert started is not None
    assert [type(event) for event in started.batch.events(0.0, "w")] == [Started]
    channel.put(report(1))
    timer = threading.Timer(0.05, channel.put, [report(2)])
    timer.start()
    assert steps(channel.collect(1)) == [1, 2]


def test_a_collect_waits_for_its_leg_and_for_something_to_tell(pool: ThreadPoolExecutor) -> None:
    channel = Channel()
    early = waiting(lambda: channel.collect(1), pool)
    channel.begin(1, 7, 1, 0.0)
    assert early.result(_PATIENCE_S).batch.started
    next_one = waiting(lambda: channel.collect(1), pool)
    channel.put(report(1))
    assert steps(next_one.result(_PATIENCE_S)) == [1]
    last = waiting(lambda: channel.collect(1), pool)
    channel.finish("done", None)
    assert channel.last_batch() is None or last.result(_PATIENCE_S) is None
    old = waiting(lambda: channel.collect(2), pool)
    channel.begin(3, 8, 1, 0.0)
    assert old.result(_PATIENCE_S) is None, "a later leg has begun"


def test_the_end_of_a_leg_is_told_once_whoever_asks_first(pool: ThreadPoolExecutor) -> None:
    for _ in range(200):
        channel = begun()
        collected = pool.submit(lambda one: [one.collect(1), one.collect(1), one.collect(1)], channel)
        channel.put(report(1))
        channel.finish("failed", Failure("exception", "no"))
        sents = [sent for sent in (channel.last_batch(), *collected.result(_PATIENCE_S)) if sent is not None]
        sents.sort(key=lambda sent: sent.number)
        assert [sent.number for sent in sents] == list(range(1, len(sents) + 1))
        events = [event for sent in sents for event in sent.batch.events(0.0) if not isinstance(event, Started)]
        assert [type(event) for event in events] == [Reported, Failed]


def test_many_reports_travel_in_batches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_channel, "MAX_ITEMS", 4)
    channel = begun(flush_s=3600.0)
    for step in range(1, 11):
        channel.put(report(step))
    channel.finish("done", None)
    sents = [channel.last_batch(), channel.collect(1), channel.collect(1)]
    assert [steps(sent) for sent in sents] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [(sent.batch.state, sent.more) for sent in sents if sent] == [
        ("running", True), ("running", True), ("done", False),
    ]  # fmt: skip
    assert channel.collect(1) is None


def test_a_step_that_is_done_again_says_that_the_trial_lives() -> None:
    channel = begun()
    channel.collect(1)
    channel.put(None)
    sent = channel.collect(1)
    assert sent is not None
    (event,) = sent.batch.events(0.0)
    assert isinstance(event, Reported)
    assert event.reports == ()


def test_what_is_asked_of_a_running_leg_is_done_and_answered_in_order(pool: ThreadPoolExecutor) -> None:
    channel = begun(flush_s=3600.0)
    channel.collect(1)
    channel.put(report(1))
    answered = waiting(lambda: channel.collect(1), pool)
    assert not channel.is_asked()
    assert channel.ask(1, save=True, halt=False)
    assert channel.ask(1, save=False, halt=True)
    assert channel.is_asked()
    assert channel.take_asked() == Asked(save=True, halt=True)
    assert (channel.is_asked(), channel.take_asked()) == (False, None)
    channel.answer(Answer(7, 1, ref(1)))
    events = answered.result(_PATIENCE_S).batch.events(0.0)
    assert [type(event) for event in events] == [Reported, Saved]


def test_a_leg_that_ends_just_as_it_is_asked_acts_first() -> None:
    channel = begun()
    channel.ask(1, save=True, halt=False)
    assert not channel.finish("waiting", None)
    assert channel.take_asked() == Asked(save=True, halt=False)
    assert channel.finish("waiting", None)
    assert not channel.ask(1, save=True, halt=False), "it is over: whoever asks has to ask the trial that waits"
    assert not channel.ask(0, save=True, halt=False)


def test_a_failure_is_not_held_up_by_what_is_asked() -> None:
    channel = begun()
    channel.ask(1, save=True, halt=False)
    assert channel.finish("failed", Failure("exception", "no"))
    assert channel.begin(2, 7, 2, 0.0)
    assert not channel.is_asked()


def test_asked_before_it_begins() -> None:
    channel = begun()
    assert channel.ask(2, save=False, halt=True)
    assert channel.ask(3, save=True, halt=True)
    assert not channel.is_asked(), "leg 1 is not meant"
    channel.finish("waiting", None)
    assert not channel.begin(2, 8, 1, 0.0), "it was taken back"
    assert channel.last_batch() is None
    assert channel.begin(3, 9, 1, 0.0)
    assert channel.take_asked() == Asked(save=True, halt=True)


def test_checkpoints_that_are_written_later_are_collected_when_the_leg_is_over(pool: ThreadPoolExecutor) -> None:
    channel, writing = begun(flush_s=3600.0), Writing()
    channel.attach(writing)
    channel.put(report(1))
    channel.finish("waiting", None)
    sent = channel.last_batch()
    assert sent is not None
    assert sent.more
    late = waiting(lambda: channel.collect(1), pool)
    writing.done, writing.writing = [Written(ref(1), 1)], False
    channel.written()
    assert late.result(_PATIENCE_S).batch.saved == (ref(1),)
    assert channel.collect(1) is None


def test_what_a_trial_before_left_is_told_as_answers_and_its_reports_are_not() -> None:
    channel, writing = begun(), Writing()
    channel.attach(writing)
    channel.put(report(1))
    writing.done = [Written(ref(1), 1)]
    channel.written()
    channel.begin(2, 8, 1, 0.0)
    channel.put(report(1))
    writing.done = [Written(ref(1, trial=8), 1)]
    channel.finish("waiting", None)
    sent = channel.last_batch()
    assert sent is not None
    assert steps(sent) == [1]
    assert (sent.batch.saved, sent.batch.answered) == ((ref(1, trial=8),), (Answer(7, 1, ref(1)),))


def test_what_is_written_for_a_save_is_its_answer_and_not_told_twice() -> None:
    channel, writing = begun(), Writing()
    channel.attach(writing)
    channel.hold()
    writing.done = [Written(ref(1), 1)]
    channel.written()
    channel.put(report(1))
    sent = channel.collect(1)
    assert sent is not None
    assert sent.batch.saved == ()
    writing.done = []  # `Executor.save` takes it
    channel.answer(Answer(7, 1, ref(1)))
    sent = channel.collect(1)
    assert sent is not None
    assert (sent.batch.saved, sent.batch.answered) == ((), (Answer(7, 1, ref(1)),))


def test_reports_are_kept_while_nobody_fetches_them_and_none_is_lost(pool: ThreadPoolExecutor) -> None:
    channel = begun(flush_s=0.001)

    def train() -> None:
        for step in range(1, 30_001):
            channel.put(report(step))
        channel.finish("done", None)

    def fetch() -> list[int]:
        found: list[int] = []
        while (sent := channel.collect(1)) is not None:
            found += steps(sent)
        return found

    training = pool.submit(train)
    time.sleep(0.05)
    fetching = pool.submit(fetch)
    training.result(_PATIENCE_S)
    assert fetching.result(_PATIENCE_S) == list(range(1, 30_001))
    channel.close()
