"""Suggestions, prepared off the hot path.

The controller asks for suggestions before there is a place for them. A searcher that takes microseconds
is called at once; any other lives in a thread of its own, so that a slow sampler holds up neither the
loop nor a worker. Asks and tells reach it in the order in which they were given.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tune_platform.protocol.commands import Ask, Tell
from tune_platform.protocol.events import Event, Exhausted, Suggested
from tune_platform.protocol.searcher import PastTrial, Searcher, Suggestion
from tune_platform.protocol.seeds import rng
from tune_platform.space import Space

_CLOSE = None


class Feed:
    """Turns Ask and Tell commands into Suggested and Exhausted events.

    The first trials take the start points, completed by sampling. `threaded` False calls the searcher in
    the loop, which makes the run a function of its seed whatever the speed of the machine.
    """

    def __init__(
        self,
        searcher: Searcher,
        space: Space,
        *,
        modes: Sequence[str],
        seed: int,
        start_points: Sequence[Mapping[str, Any]] = (),
        threaded: bool = False,
        clock: Callable[[], float],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._searcher, self._space, self._seed = searcher, space, seed
        self._start_points = start_points
        self._clock, self._wake = clock, wake
        self._ready: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._todo: queue.SimpleQueue[Ask | Tell | tuple[int, Mapping[str, Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed = False
        searcher.setup(space, mode=modes, seed=seed)
        if threaded:
            self._thread = threading.Thread(target=self._serve, name="searcher", daemon=True)

    def restore(self, past: Sequence[PastTrial]) -> None:
        """Tell the searcher the whole past; before the first submit."""
        if past:
            self._searcher.restore(past)

    def submit(self, command: Ask | Tell) -> None:
        """Have the searcher asked or told; the answer to an Ask comes out of `ready`."""
        self._put(command)

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Have the searcher hear of a trial that a person added."""
        self._put((number, config))

    def ready(self) -> list[Event]:
        """Return the suggestions that have been prepared, without waiting."""
        events = []
        while not self._ready.empty():
            events.append(self._ready.get())
        return events

    def close(self) -> None:
        """End the thread; a call of the searcher that hangs is left to the daemon thread."""
        if self._thread is not None and self._thread.is_alive():
            self._todo.put(_CLOSE)
            self._thread.join(timeout=5.0)

    def _put(self, item: Ask | Tell | tuple[int, Mapping[str, Any]]) -> None:
        if self._thread is None:
            self._call(item)
            return
        if not self._thread.is_alive():
            self._thread.start()
        self._todo.put(item)

    def _serve(self) -> None:
        while (item := self._todo.get()) is not _CLOSE:
            self._call(item)
            self._wake()

    def _call(self, item: Ask | Tell | tuple[int, Mapping[str, Any]]) -> None:
        if self._failed:
            return
        try:
            match item:
                case Ask():
                    self._ready.put(self._suggest(item.trial))
                case Tell():
                    self._searcher.tell(item.trial, item.outcome)
                case (number, config):
                    self._searcher.observe(number, config)
        except Exception as error:
            # A searcher that is broken ends the search; what runs still runs to its end.
            self._failed = True
            where = traceback.format_exc(limit=-3)
            reason = f"the searcher {type(self._searcher).__name__} failed: {type(error).__name__}: {error}\n{where}"
            self._ready.put(Exhausted(time=self._clock(), reason=reason, failed=True))

    def _suggest(self, number: int) -> Event:
        if number < len(self._start_points):
            config = self._space.complete(self._start_points[number], rng(self._seed, number, "start"))
            self._searcher.observe(number, config)
            return Suggested(time=self._clock(), trial=number, config=config, origin="start")
        suggestion: Suggestion | None = self._searcher.ask(number)
        if suggestion is None:
            return Exhausted(time=self._clock(), reason="the searcher has nothing more to try")
        return Suggested(time=self._clock(), trial=number, config=suggestion.config, memo=suggestion.memo)
