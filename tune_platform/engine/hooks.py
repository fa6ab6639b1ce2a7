"""Calls what a user's callbacks override, for each thing that happened, after the commit of its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tune_platform.engine.log import LOGGER
from tune_platform.engine.view import RunView
from tune_platform.protocol.commands import Finish
from tune_platform.protocol.effects import Decided, Effect, Moved
from tune_platform.protocol.events import Event, Reported, Saved, Suggested
from tune_platform.protocol.reports import CheckpointRef

#: Seconds, and the share of the time so far, that a callback may take before that is told; again when it has doubled.
LONG, SHARE = 5.0, 0.2


class Hooks:
    """A listener that stands between a run and its callbacks.

    `folder` is where checkpoints lie whose URIs are relative. `clock` gives seconds.
    """

    def __init__(self, callbacks: Sequence[Any], folder: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._callbacks, self._folder, self._clock = callbacks, folder, clock
        self._begun = 0.0
        self._run: RunView | None = None
        self._told: set[tuple[int, str]] = set()  # (callback, method) of those that raised
        self._spent = [0.0] * len(callbacks)
        self._limits = [LONG] * len(callbacks)

    def begin(self, run: RunView) -> None:
        """Call `on_start`, once."""
        if self._run is None:
            self._run, self._begun = run, self._clock()
            self._call("on_start", run)

    def __call__(self, run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Tell what a turn brought: first what happened, then which trials have ended of it."""
        if not self._callbacks:
            return
        self.begin(run)
        for event in events:
            self._tell(run, event)
        changed = dict.fromkeys(effect.trial for effect in effects if isinstance(effect, (Moved, Decided)))
        for number in changed:
            trial = run.trial(number)
            if trial is not None and trial.ended:
                self._call("on_trial_end", run, trial)

    def finish(self, finish: Finish) -> None:
        """Call `on_finish`, where the run has begun."""
        if self._run is not None:
            self._call("on_finish", self._run, finish)

    def _tell(self, run: RunView, event: Event) -> None:
        if isinstance(event, Suggested):
            if (trial := run.trial(event.trial)) is not None:
                self._call("on_suggest", run, trial)
        elif isinstance(event, Reported):
            if event.reports and (trial := run.trial(event.trial)) is not None:
                for report in event.reports:
                    self._call("on_report", run, trial, report)
            for ref in event.saved:
                self._call("on_checkpoint", run, self._located(ref))
        elif isinstance(event, Saved) and event.checkpoint is not None:
            self._call("on_checkpoint", run, self._located(event.checkpoint))

    def _located(self, ref: CheckpointRef) -> CheckpointRef:
        if not self._folder or "://" in ref.uri or ref.uri.startswith("/"):
            return ref
        return replace(ref, uri=f"{self._folder}/{ref.uri}")

    def _call(self, name: str, *arguments: Any) -> None:
        for index, callback in enumerate(self._callbacks):
            began = self._clock()
            try:
                getattr(callback, name)(*arguments)
            except (Exception, SystemExit):
                if (index, name) not in self._told:
                    self._told.add((index, name))
                    LOGGER.warning(
                        "%s.%s raised; the search goes on, and what else it raises is not told",
                        type(callback).__name__, name, exc_info=True,
                    )  # fmt: skip
            self._measure(index, began)

    def _measure(self, index: int, began: float) -> None:
        now = self._clock()
        spent = self._spent[index] = self._spent[index] + now - began
        whole = now - self._begun
        if spent >= self._limits[index] and spent >= SHARE * whole:
            self._limits[index] = 2 * spent
            LOGGER.warning(
                "the callback %s has taken %.0f s, %.0f %% of the time so far: nothing is decided meanwhile; hand what "
                "takes long to a thread of its own",
                type(self._callbacks[index]).__name__, spent, 100 * spent / whole,
            )  # fmt: skip
