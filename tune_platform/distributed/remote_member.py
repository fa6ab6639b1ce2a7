"""A member of a gang in a process of its own, which one trial after the other has.

As in the trial's own process, each finds it as the first one did (see `isolation`), and what is printed goes into the
trial's log, with the rank before each line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tune_platform.distributed.member import Answer, Factory, Member
from tune_platform.isolation.output import PrefixedLog
from tune_platform.isolation.process import Process
from tune_platform.protocol.seeds import derive
from tune_platform.surroundings import Surroundings
from tune_platform.trainable import TrialContext


class RemoteMember(Member):
    """See `Member`. A factory with a `context` makes the object of that trial. `log_limit`: see `Job`."""

    def __init__(
        self, worker: int, device: str, threads: int, around: Surroundings, log_limit: int, fresh: bool = False
    ) -> None:
        super().__init__(worker, device, threads, around, fresh)
        self._process = Process()
        self._log = PrefixedLog(log_limit)
        self._prints = ""  # the session whose log is open
        self._trials: dict[str, TrialContext] = {}

    def open(self, session: str, factory: Factory, fresh: bool, slot: tuple[int, int]) -> Answer:
        """See `Member.open`. The process is put back to its first state, and what all code draws from is seeded."""
        context: TrialContext = getattr(factory, "context", None) or TrialContext()
        self._trials[session] = context
        self._process.hold()
        self.place.slot = slot[0]
        with self._turn(session):
            self._process.begin(derive(context.seed, "gang", slot[0]))
            return super().open(session, factory, fresh, slot)

    def call(self, session: str, method: str, args: tuple[Any, ...]) -> Answer:
        """See `Member.call`."""
        with self._turn(session):
            return super().call(session, method, args)

    def drop(self, session: str) -> Answer:
        """See `Member.drop`. An error where something of the trial still runs: the process is not to be used again."""
        context = self._trials.get(session)
        if context is None:
            return super().drop(session)
        with self._turn(session):
            answer = super().drop(session)
            left = self._process.let_go(context.trial)  # what was ended is told in the log
        del self._trials[session]
        self._process.forget(session)
        self._log.close()
        self._prints = ""
        if left:
            return Answer(self.place.worker, error=f"the thread(s) {left} of trial {context.trial} still run")
        return answer

    @contextmanager
    def _turn(self, session: str) -> Iterator[None]:
        if (context := self._trials.get(session)) is not None and self._prints != session:
            self._log.open(context.folder, f"[rank {self.place.slot}] ")
            self._prints = session
        with self._process.inside(session):
            yield
