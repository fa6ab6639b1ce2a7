"""Between the thread that trains in a worker process and the driver, whose calls come from outside at any time.

    training thread:  begin ─> put, put, ... ─> finish          one leg: from a launch or an advance to where it halts
    other threads:    collect, ask                              what there is so far; act after the present step

Whatever the driver has not fetched is kept in order. Batches are numbered, so that the driver can put one that was
collected on the way before the last one of its leg, whichever of the two arrives first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from threading import Condition
from typing import NamedTuple, Protocol

from tune_platform.backends._batch import Answer, Batch, Failure, Item, State
from tune_platform.backends._journal import Journal
from tune_platform.backends._outbox import Outbox
from tune_platform.backends._writer import InMemory, Written

#: Reports in one batch at most.
MAX_ITEMS = 2000


class Asked(NamedTuple):
    """What the driver wants of a trial after its present step."""

    save: bool
    halt: bool


class Sent(NamedTuple):
    """A batch of leg `order` on its way. `more`: checkpoints are still being written, or reports are left."""

    number: int  # 1, 2, 3, ... in a process
    order: int
    batch: Batch
    more: bool


class _Checkpoints(Protocol):
    @property
    def writing(self) -> bool: ...

    def is_writing(self, trial: int) -> bool: ...

    def late(self) -> Sequence[Written | InMemory]: ...


class Channel:
    """What one worker process sends, and what it is asked for.

    Legs are numbered by the driver, rising.
    """

    def __init__(self) -> None:
        self._asked = False  # whether the leg is to act after its present step
        self._executor: _Checkpoints | None = None
        self._changed = Condition()
        self._outbox = Outbox()
        self._journal = Journal()
        self._order = 0
        self._trial = (-1, 0)  # with its attempt
        self._flush_s = 0.0
        self._last = 0.0  # when a batch was last taken, or the leg began
        self._lives = False  # something happened that gives no report
        self._started = False  # the trial's code has begun, and no batch has said so yet
        self._state: State | None = None  # how the leg ended; None: it runs
        self._failure: Failure | None = None
        self._over = True  # the leg has ended, and a batch has said so
        self._number = 0
        self._collecting = False  # somebody waits for the first thing to be put
        self._urgent = False  # an answer is not kept back until the next flush
        self._wishes: dict[int, Asked] = {}  # by leg: the driver may ask before it has begun
        self._held = False  # what is written now is the answer to a Save

    def attach(self, executor: _Checkpoints, journal: Journal | None = None) -> None:
        """Take the process's executor, which knows of checkpoints that are finished behind the training.

        What is on its way goes to the journal as well, until the driver asks for more: then it has that.
        """
        self._executor, self._journal = executor, journal or self._journal

    # the training thread

    def begin(self, order: int, trial: int, attempt: int, flush_s: float) -> bool:
        """Begin a leg; False where the driver has taken it back already."""
        with self._changed:
            changed = (trial, attempt) != self._trial
            if changed and len(self._outbox):  # the trial before was released: what it still reported is not wanted
                for item in self._outbox.take(len(self._outbox)):
                    if isinstance(item, (Written, Answer)):
                        self._outbox.put(item)
            self._note_delivery()
            self._order, self._trial, self._flush_s = order, (trial, attempt), flush_s
            self._last = time.monotonic()
            self._lives = self._urgent = False
            self._started = changed
            self._state = self._failure = None
            self._over = False
            self._wishes = {leg: asked for leg, asked in self._wishes.items() if leg >= order}
            self._asked = order in self._wishes
            void = self._asked and not self._wishes[order].save
            if void:
                self._over, self._state = True, "waiting"
            self._changed.notify_all()
        return not void

    def put(self, item: Item) -> None:
        """Add what came of the trial."""
        with self._changed:
            if item is None:
                self._lives = True
            else:
                self._put(item)
            if self._collecting:
                self._collecting = False
                self._changed.notify_all()

    def is_asked(self) -> bool:
        """Whether the leg is to act after its present step. Called after each step: takes no lock."""
        return self._asked

    def take_asked(self) -> Asked | None:
        """Return what the leg is to do now, if anything."""
        with self._changed:
            self._asked = False
            return self._wishes.pop(self._order, None)

    def hold(self) -> None:
        """Keep back what is written from now on: it is the answer to a Save, which `answer` brings."""
        with self._changed:
            self._held = True

    def answer(self, answer: Answer | None) -> None:
        """Put the answer to a Save, behind what was written before it; None where there is none after all."""
        with self._changed:
            self._held = False
            self._pull()
            if answer is not None:
                self._outbox.put(answer)
                self._urgent = True
                self._changed.notify_all()

    def finish(self, state: State, failure: Failure | None) -> bool:
        """End the leg; False where the driver has asked for something meanwhile that is to be done first."""
        with self._changed:
            if self._asked and state == "waiting":
                return False
            self._state, self._failure, self._over = state, failure, False
            self._asked = self._held = False
            self._wishes.pop(self._order, None)
            self._changed.notify_all()
        return True

    def last_batch(self) -> Sent | None:
        """Return the first of what is left once a leg has ended; None where the driver has collected everything."""
        with self._changed:
            return None if self._over and not len(self._outbox) else self._take()

    def close(self) -> None:
        """Forget what nobody has fetched."""
        with self._changed:
            self._outbox.close()
            self._journal.close()

    # any thread

    def written(self) -> None:
        """Take over the checkpoints that are finished."""
        with self._changed:
            if not self._held:
                self._pull()
                self._changed.notify_all()

    def collect(self, order: int) -> Sent | None:
        """Wait until there is something to tell of leg `order`, and return it; None: it is over, all has been told.

        Things are kept until `flush_s` after the last batch, so that they travel together. The start of a trial, an
        answer, and the end of the leg are not.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._order >= order)
            self._note_delivery()
            while self._order == order:
                over = self._over
                if over:
                    writing = self._executor is not None and self._executor.writing
                    self._pull()
                    if not len(self._outbox) and not writing:
                        return None
                something = bool(len(self._outbox)) or self._lives
                left = self._last + self._flush_s - time.monotonic()
                if self._ready() or (something and (over or left <= 0)):
                    return self._take()
                self._collecting = not something
                self._changed.wait(None if not something else min(left, 3600.0))
            return None

    def ask(self, order: int, *, save: bool, halt: bool) -> bool:
        """Have leg `order` save or halt after its present step, or its first; False where it has ended already."""
        with self._changed:
            if self._order > order or (self._order == order and self._state is not None):
                return False
            before = self._wishes.get(order, Asked(False, False))
            self._wishes[order] = Asked(before.save or save, before.halt or halt)
            self._asked = self._order in self._wishes
            return True

    # with the lock held

    def _ready(self) -> bool:
        return self._started or self._urgent or (self._state is not None and not self._over)

    def _pull(self) -> None:
        if self._executor is not None:
            for one in self._executor.late():
                self._put(one)

    def _put(self, item: Item) -> None:
        self._journal.add(item, *self._trial)
        self._outbox.put(item)

    def _note_delivery(self) -> None:
        """Note that the driver has what was taken before: it asks for more only then."""
        if len(self._outbox) <= MAX_ITEMS:  # else it was away, and the journal is short again once it has all
            self._journal.restart(self._outbox.in_memory(), *self._trial)

    def _take(self) -> Sent:
        writing = saving = False
        if self._executor is not None and not self._held:
            writing = self._executor.writing  # before: what is finished from here on is found by the next look
            saving = writing and self._executor.is_writing(self._trial[0])
            self._pull()
        items = self._outbox.take(MAX_ITEMS)
        left = len(self._outbox) > 0
        ended = self._state is not None and not left
        state: State = self._state if ended and self._state is not None else "running"
        batch = Batch.of(*self._trial, items, state, self._failure if ended else None, self._started, saving)
        if ended:  # once; what comes after it are checkpoints
            self._over, self._state, self._failure = True, "waiting", None
        self._started = self._lives = self._urgent = False
        self._last = time.monotonic() if not left else -math.inf
        self._number += 1
        return Sent(self._number, self._order, batch, writing or left)
