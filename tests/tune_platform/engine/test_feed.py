"""The feed: asks and tells in order, on and off the loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support import FakeSpace, MemorySearcher
from tune_platform.engine.feed import Feed
from tune_platform.protocol.commands import Ask, Tell
from tune_platform.protocol.events import Event, Exhausted, Suggested
from tune_platform.protocol.searcher import Outcome, Suggestion

DONE = Outcome(status="completed", value=1.0, step=3)


def make(searcher: Any, *, threaded: bool, start_points: Sequence[Any] = (), wake: Any = lambda: None) -> Feed:
    space: Any = FakeSpace()
    return Feed(
        searcher,
        space,
        modes=["min"],
        seed=3,
        start_points=start_points,
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
