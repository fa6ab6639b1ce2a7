"""Suggestions, prepared off the hot path.

A searcher that takes microseconds is called in the loop; any other lives in a thread of its own, so that a slow sampler
holds up neither the loop nor a worker. Asks and tells reach it in the order in which they were given; asks that wait
together, with nothing between them, are handed to `ask_batch` where the searcher has it.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from tune_platform.errors import SearcherError, SpecError
from tune_platform.protocol.commands import Ask, Tell
from tune_platform.protocol.configs import from_json, is_plain, to_json
from tune_platform.protocol.events import Event, Exhausted, Suggested
from tune_platform.protocol.reports import Config
from tune_platform.protocol.searcher import PastTrial, Searcher, Suggestion
from tune_platform.protocol.seeds import rng
from tune_platform.resources import Resources
from tune_platform.space import Space

_Call = Ask | Tell | tuple[int, Mapping[str, Any]]  # the last: a trial to observe
_NO_MORE: Any = object()


class Feed:
    """Turns Ask and Tell commands into Suggested and Exhausted events.

    The first trials take the start points, completed by sampling. `resources` gives those of a config. `threaded` False
    calls the searcher in the loop, which makes the run a function of its seed whatever the speed of the machine.
    """

    def __init__(
        self,
        searcher: Searcher,
        space: Space,
        *,
        modes: Sequence[str],
        seed: int,
        start_points: Sequence[Mapping[str, Any]] = (),
        resources: Callable[[Config], Resources] | None = None,
        threaded: bool = False,
        clock: Callable[[], float],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._searcher, self._space, self._seed = searcher, space, seed
        self._start_points, self._resources = start_points, resources
        self._clock, self._wake = clock, wake
        self._ready: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._todo: deque[_Call] = deque()
        self._changed = threading.Condition()  # guards _todo, _busy and _closed
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None
        self._failed = False
        self._modes = modes
        self._begin()
        if threaded:
            self._thread = threading.Thread(target=self._serve, name="searcher", daemon=True)

    # ------------------------------------------------------------------------------- what the runner calls

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Have the searcher take over its own state of some moment; where it raises, it starts from nothing again."""
        try:
            self._searcher.load_state(state)  # type: ignore[attr-defined]  # optional: see `has_state`
        except Exception:
            self._begin()
            raise

    def restore(self, past: Sequence[PastTrial], *, later: Iterable[Tell] = ()) -> None:
        """Tell the searcher the past; before the first submit.

        That is all of it, or what came after the state that it has loaded was taken: the trials suggested since, and
        what came `later` of earlier ones.
        """
        if past:
            self._searcher.restore(past)
        for tell in later:
            self._searcher.tell(tell.trial, tell.outcome)

    def state(self) -> Mapping[str, Any] | None:
        """Return the searcher's state of just now, to `restore`, as JSON values.

        None where it offers none, has calls still to answer, or has suggested what `ready` has not returned yet.
        """
        if not hasattr(self._searcher, "state"):
            return None
        with self._changed:
            if self._failed or self._todo or self._busy or not self._ready.empty():
                return None
            state: Mapping[str, Any] = self._searcher.state()
            return state

    def submit(self, command: Ask | Tell) -> None:
        """Have the searcher asked or told; the answer to an Ask comes out of `ready`."""
        self._put(command)

    def observe(self, number: int, config: Mapping[str, Any]) -> None:
        """Have the searcher hear of a trial that a person added."""
        self._put((number, config))

    def ready(self) -> list[Event]:
        """Return the suggestions that have been prepared, without waiting."""
        if self._thread is None:
            self._answer_all()
        events = []
        while not self._ready.empty():
            events.append(self._ready.get())
        return events

    @property
    def has_state(self) -> bool:
        """Whether the searcher can take over a state of its own."""
        return hasattr(self._searcher, "load_state")

    def suggestion(self, number: int, config: Config, *, origin: str) -> Suggested:
        """Return the fact that trial `number` has this config, which is not the searcher's."""
        return self._suggested(number, config, origin=origin)

    def place(self, config: Config) -> tuple[Resources | None, str]:
        """Return the resources of a config, worked out once, and what went wrong where they cannot be."""
        try:
            return (None if self._resources is None else self._resources(config)), ""
        except Exception as error:
            return None, f"resources: the function of the config raised {error!r}"

    def close(self) -> None:
        """End the thread; a call of the searcher that hangs is left to the daemon thread."""
        if self._thread is not None and self._thread.is_alive():
            with self._changed:
                self._closed = True
                self._changed.notify()
            self._thread.join(timeout=5.0)

    def _begin(self) -> None:
        self._searcher.setup(self._space, mode=self._modes, seed=self._seed)

    # ------------------------------------------------------------------------------- calls, in order

    def _put(self, call: _Call) -> None:
        with self._changed:
            self._todo.append(call)
            self._changed.notify()
        if self._thread is None:
            if not isinstance(call, Ask):  # asks wait for each other, until an answer is looked for
                self._answer_all()
        elif not self._thread.is_alive() and not self._closed:
            self._thread.start()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.wait_for(lambda: self._todo or self._closed)
                if self._closed:
                    return
                self._busy = True
                calls = self._next()
            self._answer(calls)

    def _answer_all(self) -> None:
        while self._todo:
            self._answer(self._next())

    def _next(self) -> list[_Call]:
        """Take the next call, with the asks that follow it directly if it is one itself."""
        calls = [self._todo.popleft()]
        while isinstance(calls[0], Ask) and self._todo and isinstance(self._todo[0], Ask):
            calls.append(self._todo.popleft())
        return calls

    def _answer(self, calls: Sequence[_Call]) -> None:
        if self._failed:
            return
        try:
            match calls[0]:
                case Ask():
                    self._suggest([call.trial for call in calls if isinstance(call, Ask)])
                case Tell(trial=number, outcome=outcome):
                    self._searcher.tell(number, outcome)
                case (number, config):
                    self._searcher.observe(number, config)
        except Exception as error:
            # A searcher that is broken ends the search; what runs still runs to its end.
            self._failed = True
            where = traceback.format_exc(limit=-3)
            reason = f"the searcher {type(self._searcher).__name__} failed: {type(error).__name__}: {error}\n{where}"
            self._give(Exhausted(time=self._clock(), reason=reason, failed=True))

    # ------------------------------------------------------------------------------- suggestions

    def _suggest(self, numbers: Sequence[int]) -> None:
        for given, group in groupby(numbers, lambda number: number < len(self._start_points)):
            if given:
                for number in group:
                    config = self._space.complete(self._start_points[number], rng(self._seed, number, "start"))
                    self._searcher.observe(number, config)
                    self._give(self._suggested(number, config, origin="start"))
                continue
            for number, suggestion, cost in self._asked(list(group)):
                if suggestion is None:
                    why = getattr(self._searcher, "exhausted", "") or "the searcher has nothing more to try"
                    self._give(Exhausted(time=self._clock(), reason=why))
                else:
                    self._give(self._suggested(number, suggestion.config, memo=suggestion.memo, cost=cost))

    def _asked(self, numbers: Sequence[int]) -> Iterator[tuple[int, Suggestion | None, float]]:
        """Yield each number with its suggestion, as soon as it is drawn, and the seconds that it took."""
        batch: Callable[[Sequence[int]], Iterable[Suggestion | None]] | None
        batch = getattr(self._searcher, "ask_batch", None) if len(numbers) > 1 else None
        begin = self._seconds()
        suggestions = batch(numbers) if batch is not None else map(self._searcher.ask, numbers)
        # Drawn all at once, they share the time; else each takes its own.
        share = (self._seconds() - begin) / len(numbers) if isinstance(suggestions, Sequence) else None
        found = iter(suggestions)
        for number in numbers:
            suggestion = next(found, _NO_MORE)
            if suggestion is _NO_MORE:
                raise SearcherError(f"ask_batch gave fewer suggestions than the {len(numbers)} asked for")
            yield number, suggestion, self._seconds() - begin if share is None else share
            begin = self._seconds()
        if next(found, _NO_MORE) is not _NO_MORE:
            raise SearcherError(f"ask_batch gave more suggestions than the {len(numbers)} asked for")

    def _seconds(self) -> float:
        return time.perf_counter() if self._thread is not None else 0.0

    def _suggested(self, number: int, config: Config, **rest: Any) -> Suggested:
        problem, resources = "", None
        try:
            if not is_plain(config):
                config = from_json(to_json(config))  # what it is after a resumption, from the beginning
        except SpecError as error:
            config, problem = _storable(config), f"its config cannot be kept: {error}"
        else:
            resources, problem = self.place(config)
        return Suggested(time=self._clock(), trial=number, config=config, resources=resources, problem=problem, **rest)

    def _give(self, event: Event) -> None:
        self._ready.put(event)
        if self._thread is not None:
            self._wake()


def _storable(value: Any) -> Any:
    """Return a config with the text of what a store cannot keep, for people to see."""
    if isinstance(value, Mapping):
        return {str(key): _storable(item) for key, item in value.items()}
    return value if is_plain(value) else repr(value)[:200]
