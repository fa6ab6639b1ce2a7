"""Finishes checkpoints behind the training: what `Draft.keep` does, in order, in one thread.

Another thread copies files into memory before that, so that whoever waits for a copy does not wait for storage.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition

from tune_platform.backends._memory import Copy, FilesCopy, Memory, StateCopy
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.state import save_state
from tune_platform.store.checkpoints import Draft
from tune_platform.trainable import Trainable

logger = logging.getLogger(__name__)

#: Checkpoints that are not finished, at most: with them go disk and memory. The training then waits.
MAX_PENDING = 2
#: Seconds that a training waits for that before it is told, in its log.
SLOW_S = 30.0


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is whole, and the attempt of its trial that wrote it."""

    ref: CheckpointRef
    attempt: int


@dataclass(frozen=True, slots=True)
class InMemory:
    """A checkpoint that others can take over from memory, before it is written."""

    ref: CheckpointRef
    attempt: int


class Writer:
    """Takes drafts from the training's thread and gives back refs, or the error of the last that failed.

    Without `on_written` a draft is finished at once, in the caller's thread. With it, in another thread, which calls
    `on_written()` after each. With a `memory` a copy of each stays there.
    """

    def __init__(self, on_written: Callable[[], None] | None, memory: Memory | None = None) -> None:
        self._on_written = on_written
        self._memory = memory
        # No thread before its first task.
        self._copying = ThreadPoolExecutor(1, thread_name_prefix="copies")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._changed = Condition()
        self._pending: deque[int] = deque()  # trials, in the order of their drafts
        self._written: list[Written | InMemory] = []
        self._failed: tuple[tuple[int, int], BaseException] | None = None  # (trial, attempt), error

    def make_room(self) -> None:
        """Wait until another draft may be begun."""
        with self._changed:
            if not self._changed.wait_for(self._has_room, SLOW_S):
                logger.warning("the training waits: its storage has not finished a checkpoint for %g s", SLOW_S)
                self._changed.wait_for(self._has_room)

    def _has_room(self) -> bool:
        return len(self._pending) < MAX_PENDING

    def submit(self, draft: Draft, step: int, attempt: int, state: StateCopy | None = None) -> None:
        """Have the draft finished, and the state written into it first where there is one and the draft is empty.

        Where that is done at once, raises what it raises.
        """
        if self._on_written is None:
            try:
                copy = state if state is not None or self._memory is None else FilesCopy.of(draft.files)
            except BaseException:
                draft.discard()
                raise
            ref = _keep(draft, step, attempt, state, None)
            self._written.append(Written(ref, attempt))
            if self._memory is not None and copy is not None:
                self._memory.put(ref, copy)
                self._memory.release(ref)
            return
        with self._changed:
            self._pending.append(draft.trial)
        copying = None
        if state is not None:
            self._hold(draft.ref(step, attempt, state.bytes), attempt, state)
        elif self._memory is not None:
            copying = self._copying.submit(self._copy, draft, step, attempt, self._on_written)
        self._pool.submit(self._finish, draft, step, attempt, state, copying, self._on_written)

    def flush(self, trial: int) -> None:
        """Wait until all of one trial is finished."""
        with self._changed:
            self._changed.wait_for(lambda: trial not in self._pending)

    def check(self, trial: int, attempt: int) -> None:
        """Raise, once, the error for which a checkpoint of this attempt could not be finished."""
        if self._failed is None:  # after each step: without the lock
            return
        with self._changed:
            if self._failed is not None and self._failed[0] == (trial, attempt):
                error, self._failed = self._failed[1], None
                raise error

    def take(self) -> list[Written | InMemory]:
        """Return, once, all that is finished, or in memory, oldest first."""
        with self._changed:
            taken, self._written = self._written, []
        return taken

    def take_newest(self, trial: int, attempt: int) -> CheckpointRef | None:
        """Return, once, the newest that is finished of one attempt; None where there is none that was not taken."""
        with self._changed:
            whole = [one for one in self._written if isinstance(one, Written)]
            own = [one for one in whole if (one.ref.trial, one.attempt) == (trial, attempt)]
            if own:
                self._written.remove(own[-1])
        return own[-1].ref if own else None

    @property
    def pending(self) -> int:
        """How many are not finished."""
        return len(self._pending)

    def is_writing(self, trial: int) -> bool:
        """Whether checkpoints of this trial are not finished."""
        with self._changed:
            return trial in self._pending

    def close(self) -> None:
        """Finish everything, then end the threads."""
        self._copying.shutdown(wait=True)
        self._pool.shutdown(wait=True)

    def _copy(self, draft: Draft, step: int, attempt: int, on_written: Callable[[], None]) -> None:
        copy = FilesCopy.of(draft.files)
        self._hold(draft.ref(step, attempt, copy.bytes), attempt, copy)
        on_written()

    def _hold(self, ref: CheckpointRef, attempt: int, copy: Copy) -> None:
        """Offer a copy to others; it is written behind that."""
        if self._memory is not None and self._memory.put(ref, copy):
            with self._changed:
                self._written.append(InMemory(ref, attempt))

    def _finish(
        self,
        draft: Draft,
        step: int,
        attempt: int,
        state: StateCopy | None,
        copying: Future[None] | None,
        on_written: Callable[[], None],
    ) -> None:
        written, failed = None, None
        try:
            written = Written(_keep(draft, step, attempt, state, copying), attempt)
        except BaseException as error:
            logger.warning("the checkpoint of trial %d, step %d, was not written: %r", draft.trial, step, error)
            failed = (draft.trial, attempt), error
        with self._changed:
            self._pending.popleft()
            if written is not None:
                self._written.append(written)
            else:
                self._failed = failed
            self._changed.notify_all()
        if self._memory is not None:
            self._memory.release(draft.ref(step, attempt, 0))
        on_written()


def _keep(
    draft: Draft, step: int, attempt: int, state: StateCopy | None, copying: Future[None] | None
) -> CheckpointRef:
    """Make a whole checkpoint of a draft, once it is copied, with the state written into it where it has no files."""
    try:
        if copying is not None:
            copying.result()
        if state is not None and not any(draft.files.iterdir()):
            save_state(draft.files, state.look())
        return draft.keep(step, attempt)
    except BaseException:
        draft.discard()
        raise


def drafted(draft: Draft, trainable: Trainable) -> tuple[Draft | None, StateCopy | None]:
    """Fill a draft, and copy the state of a trainable that hands it over; None for the draft where nothing is saved.

    Where there is a state, and no files of the trainable's own, the draft is left empty, to be written later.
    """
    kind, written = type(trainable), False
    try:
        own = kind.save_checkpoint is not Trainable.save_checkpoint
        state = StateCopy.of(trainable.get_state()) if kind.get_state is not Trainable.get_state else None
        written = trainable.save_checkpoint(draft.files) is not False if own else state is not None
    finally:
        if not written:
            draft.discard()
    return (draft, state) if written else (None, None)
