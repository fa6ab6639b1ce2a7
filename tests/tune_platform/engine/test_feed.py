"""The feed: asks and tells in order, on and off the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.support import FakeSpace, MemorySearcher
from tune_platform.engine.feed import Feed
from tune_platform.protocol.commands import Ask, Tell
from tune_platform.protocol.events import Event, Exhausted, Suggested
from tune_platform.protocol.searcher import Outcome, PastTrial, Suggestion
from tune_platform.resources import Resources

DONE = Outcome(status="completed", value=1.0, step=3)


def make(
    searcher: Any,
    *,
    threaded: bool,
    start_points: Sequence[Any] = (),
    wake: Any = lambda: None,
    resources: Any = None,
) -> Feed:
    space: Any = FakeSpace()
    return Feed(
        searcher,
        space,
        modes=["min"],
        seed=3,
        start_points=start_points,
        resources=resources,
        threaded=threaded,
        clock=lambda: 7.0,
        wake=wake,
    )


def collect(feed: Feed, count: int) -> list[Event]:
    events: list[Event] = []
    end = time.monotonic() + 20
    while len(events) < count and time.monotonic() < end:
        events += feed.ready()
        time.sleep(0.001)
    return events


@pytest.mark.parametrize("threaded", [False, True])
def test_asks_and_tells_reach_it_in_order(threaded: bool) -> None:
    searcher = MemorySearcher()
    feed = make(searcher, threaded=threaded, start_points=[{"x": 0.9}])
    for call in (Ask(trial=0), Ask(trial=1), Tell(trial=0, outcome=DONE), Ask(trial=2)):
        feed.submit(call)
    feed.observe(3, {"x": 0.5})
    feed.submit(Ask(trial=4))
    events = collect(feed, 4)
    feed.close()
    assert [event.trial for event in events if isinstance(event, Suggested)] == [0, 1, 2, 4]
    assert searcher.calls == [("observe", 0), ("ask", 1), ("tell", 0), ("ask", 2), ("observe", 3), ("ask", 4)]
    first, second = events[0], events[1]
    assert isinstance(first, Suggested)
    assert isinstance(second, Suggested)
    assert (first.origin, first.config, first.time) == ("start", {"x": 0.9}, 7.0)
    assert (second.origin, second.memo) == ("searcher", {"told": 0})


def test_a_slow_searcher_does_not_hold_up_the_loop() -> None:
    go, woken = threading.Event(), threading.Event()

    class Slow(MemorySearcher):
        def ask(self, number: int) -> Suggestion | None:
            assert threading.current_thread().name == "searcher"
            go.wait(20)
            return super().ask(number)

    feed = make(Slow(), threaded=True, wake=woken.set)
    feed.submit(Ask(trial=0))
    assert feed.ready() == []  # the searcher is still at it: had anybody waited for it, there would be an answer
    go.set()
    assert len(collect(feed, 1)) == 1
    assert woken.wait(20)
    feed.close()


@pytest.mark.parametrize("threaded", [False, True])
def test_a_searcher_that_raises_ends_the_search(threaded: bool) -> None:
    feed = make(MemorySearcher(raises_at=1), threaded=threaded)
    for number in range(4):
        feed.submit(Ask(trial=number))
    events = collect(feed, 2)
    feed.close()
    assert feed.ready() == []
    assert isinstance(events[0], Suggested)
    assert isinstance(events[1], Exhausted)
    assert events[1].failed
    assert "MemorySearcher failed: RuntimeError: no idea left" in events[1].reason
    assert "in ask" in events[1].reason


def test_exhausted() -> None:
    feed = make(MemorySearcher(limit=1), threaded=False)
    feed.submit(Ask(trial=0))
    feed.submit(Ask(trial=1))
    events = feed.ready()
    assert isinstance(events[1], Exhausted)
    assert not events[1].failed


def test_close_twice_and_unused() -> None:
    for threaded in (False, True):
        feed = make(MemorySearcher(), threaded=threaded)
        feed.close()
        feed.submit(Ask(trial=0))
        collect(feed, 1)
        feed.close()
        feed.close()


class Batcher(MemorySearcher):
    """Suggests in batches, lazily, and notes which."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.batches: list[list[int]] = []

    def ask_batch(self, numbers: Sequence[int]) -> Iterable[Suggestion | None]:
        self.batches.append(list(numbers))
        return map(self.ask, numbers)


def suggested(events: Iterable[Event]) -> list[Suggested]:
    return [event for event in events if isinstance(event, Suggested)]


CALLS: tuple[Ask | Tell, ...] = (
    *(Ask(trial=n) for n in range(5)), Tell(trial=2, outcome=DONE), Ask(trial=5), Ask(trial=6),
    Tell(trial=3, outcome=DONE), Tell(trial=4, outcome=DONE), Ask(trial=7),
)  # fmt: skip


def test_asks_that_wait_together_are_a_batch() -> None:
    """Start points, tells and observed trials stand between batches; and the answers are those of asks alone."""
    alone, together = MemorySearcher(), Batcher()
    events: list[list[Event]] = []
    for searcher in (alone, together):
        feed = make(searcher, threaded=False, start_points=[{"x": 0.9}, {"x": 0.8}])
        events.append([])
        for call in CALLS:
            feed.submit(call)
            if isinstance(call, Tell):
                assert call.trial in searcher.told  # at once, after the asks before it
            if searcher is alone:
                events[-1] += feed.ready()
        events[-1] += feed.ready()
    assert together.batches == [[2, 3, 4], [5, 6]]
    assert events[0] == events[1]
    assert alone.calls == together.calls


def test_a_thread_batches_what_waits_and_hands_on_what_is_drawn() -> None:
    begun = threading.Event()
    gates = {0: threading.Event(), 2: threading.Event()}

    class Slow(Batcher):
        def ask(self, number: int) -> Suggestion | None:
            begun.set()
            if number in gates:
                gates[number].wait(20)
            return super().ask(number)

    searcher = Slow()
    woken = threading.Semaphore(0)
    feed = make(searcher, threaded=True, wake=woken.release)
    feed.submit(Ask(trial=0))
    assert begun.wait(20)
    for number in range(1, 4):
        feed.submit(Ask(trial=number))
    gates[0].set()
    assert [event.trial for event in suggested(collect(feed, 2))] == [0, 1]
    assert feed.ready() == []  # it thinks about trial 2 still: trial 1 has not waited for it
    assert all(woken.acquire(timeout=20) for _ in range(2))
    gates[2].set()
    assert [event.trial for event in suggested(collect(feed, 2))] == [2, 3]
    feed.close()
    assert searcher.batches == [[1, 2, 3]]


@pytest.mark.parametrize("threaded", [False, True])
def test_the_seconds_of_an_ask_are_measured_where_time_is_real(threaded: bool) -> None:
    class Slow(MemorySearcher):
        def ask(self, number: int) -> Suggestion | None:
            time.sleep(0.02)
            return super().ask(number)

    class AtOnce(Slow):
        def ask_batch(self, numbers: Sequence[int]) -> Sequence[Suggestion | None]:
            return [self.ask(number) for number in numbers]

    class OneByOne(Slow):
        def ask_batch(self, numbers: Sequence[int]) -> Iterator[Suggestion | None]:
            return map(self.ask, numbers)

    for searcher in (Slow(), AtOnce(), OneByOne()):
        feed = make(searcher, threaded=threaded, start_points=[{"x": 0.5}])
        for number in range(4):
            feed.submit(Ask(trial=number))
        given, *drawn = suggested(collect(feed, 4))
        feed.close()
        assert given.cost == 0.0
        if threaded:
            assert all(event.cost >= 0.019 for event in drawn)
        else:
            assert all(event.cost == 0.0 for event in drawn)


@pytest.mark.parametrize(
    ("answer", "words"),
    [([Suggestion({"x": 0.1})], "fewer suggestions than the 3"), ([Suggestion({"x": 0.1})] * 4, "more suggestions")],
)
def test_a_batch_of_another_size_ends_the_search(answer: Sequence[Suggestion], words: str) -> None:
    class Wrong(MemorySearcher):
        def ask_batch(self, numbers: Sequence[int]) -> Sequence[Suggestion]:
            return answer

    feed = make(Wrong(), threaded=False)
    for number in range(3):
        feed.submit(Ask(trial=number))
    *events, last = feed.ready()
    assert len(events) == min(len(answer), 3)
    assert isinstance(last, Exhausted)
    assert last.failed
    assert words in last.reason


def test_a_batch_that_raises_gives_what_it_had() -> None:
    feed = make(Batcher(raises_at=2), threaded=False)
    for number in range(4):
        feed.submit(Ask(trial=number))
    *events, last = feed.ready()
    assert [event.trial for event in suggested(events)] == [0, 1]
    assert isinstance(last, Exhausted)
    assert last.failed


def test_exhausted_within_a_batch() -> None:
    feed = make(Batcher(limit=1), threaded=False)
    for number in range(3):
        feed.submit(Ask(trial=number))
    assert [type(event) for event in feed.ready()] == [Suggested, Exhausted, Exhausted]


def test_resources_are_worked_out_once_for_each_config() -> None:
    seen: list[Any] = []

    def resources(config: Mapping[str, Any]) -> Resources:
        seen.append(config["x"])
        return Resources(cpu=2) if config["x"] < 0.9 else Resources(cpu=1 / 0)

    feed = make(MemorySearcher(), threaded=False, start_points=[{"x": 0.5}, {"x": 0.9}], resources=resources)
    for number in range(3):
        feed.submit(Ask(trial=number))
    first, second, third = suggested(feed.ready())
    assert (first.resources, first.problem) == (Resources(cpu=2), "")
    assert (second.resources, second.problem) == (
        None, "resources: the function of the config raised ZeroDivisionError('division by zero')",
    )  # fmt: skip
    assert third.origin == "searcher"
    assert seen == [first.config["x"], second.config["x"], third.config["x"]]
    assert feed.place({"x": 0.1}) == (Resources(cpu=2), "")  # a person's trial
    plain = make(MemorySearcher(), threaded=False)
    plain.submit(Ask(trial=0))
    (event,) = suggested(plain.ready())
    assert (event.resources, event.problem) == (None, "")


class Stateful(Batcher):
    """Offers its state."""

    def state(self) -> Mapping[str, Any]:
        return {"known": [[n, c] for n, c in self.known.items()], "told": sorted(self.told)}

    def load_state(self, data: Mapping[str, Any]) -> None:
        self.known = dict(data["known"])
        self.told = dict.fromkeys(data["told"], DONE)


@pytest.mark.parametrize("threaded", [False, True])
def test_state_is_that_of_a_quiet_searcher(threaded: bool) -> None:
    go = threading.Event()

    class Slow(Stateful):
        def ask(self, number: int) -> Suggestion | None:
            go.wait(20)
            return super().ask(number)

    searcher = Slow()
    feed = make(searcher, threaded=threaded)
    assert feed.state() == {"known": [], "told": []}
    feed.submit(Ask(trial=0))
    assert feed.state() is None  # it has still to answer
    go.set()
    if threaded:
        while feed._ready.empty():
            time.sleep(0.001)
        assert feed.state() is None  # nobody has taken the answer
    (event,) = suggested(collect(feed, 1))
    end = time.monotonic() + 20
    while feed.state() is None and time.monotonic() < end:  # the thread goes to rest
        time.sleep(0.001)
    state = feed.state()
    assert state == {"known": [[0, event.config]], "told": []}
    feed.close()

    other = Slow()
    feed = make(other, threaded=False)
    assert state is not None
    feed.load_state(state)
    feed.restore([PastTrial(1, {"x": 0.2})], later=[Tell(trial=0, outcome=DONE)])
    assert other.known == {0: event.config, 1: {"x": 0.2}}
    assert other.told == {0: DONE}


def test_no_state_without_one_or_after_a_failure() -> None:
    assert make(MemorySearcher(), threaded=False).state() is None
    feed = make(Stateful(raises_at=0), threaded=False)
    feed.submit(Ask(trial=0))
    feed.ready()
    assert feed.state() is None
