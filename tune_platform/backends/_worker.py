"""What runs in a worker process of the Ray backend: an executor behind plain calls. Imports no Ray."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from tune_platform.backends._batch import Batch, Failure, failure_of
from tune_platform.backends.executor import Executor, trial_folder
from tune_platform.distributed.gang import Gang
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.reports import CheckpointRef

#: What `launch` answers where the trial before still runs in some thread: the process must be replaced.
SPOILT = "spoilt"


class Worker:
    """Serves one trial after the other; each method is one actor call, and Ray runs them in the order given.

    Launches and batches cross as plain pickles in bytes: Ray's own way to send objects takes several times as long.
    `order` numbers what the driver decided for the present trial (a launch, an advance), so that a call that
    was queued for an earlier decision does nothing. `gang`: the workers that trials on this one will ask for.
    """

    def __init__(self, payload: bytes, path: list[str], gang: Gang | None = None) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._payload = payload
        self._gang = gang
        if gang is not None:  # its other workers load torch and the user's code while this process does
            gang.start(payload)
        self._executor: Executor | None = None
        self._order = 0
        self._running = False
        self._until: float | None = None
        self._save = False
        self._log = _Log()
        sys.stdout = _Tee(sys.stdout, self._log)
        sys.stderr = _Tee(sys.stderr, self._log)

    def launch(self, order: int, packed: bytes, warm: bool) -> bytes:
        """End the trial before (`warm`: keep it in memory), begin this one and run it; return (worker, batch)."""
        return pickle.dumps(self._launch(order, pickle.loads(packed), warm), protocol=5)

    def _launch(self, order: int, launch: Launch, warm: bool) -> tuple[str, Batch | str]:
        name = f"{socket.gethostname()}:{os.getpid()}"
        self._order, self._running = order, False
        try:
            # User code is first seen here, not in the constructor: its errors are a trial's failure.
            if self._executor is None:
                self._executor = Executor(pickle.loads(self._payload), "ray", self._gang)
            self._end(warm)
            if not self._executor.clean:
                return name, SPOILT
            self._log.open(trial_folder(self._executor.job, launch.trial))
        except BaseException as error:
            failure = failure_of(error)
            mistaken = isinstance(error, (ImportError, AttributeError))
            failure = Failure(failure.cause, failure.message, failure.traceback, fatal=mistaken)
            return name, Batch(launch.trial, launch.attempt, (), (), "failed", failure)
        batch = self._executor.begin(launch)
        return name, batch or self._go(launch.until, launch.save)

    def advance(self, order: int, until: float | None, save: bool) -> bytes:
        """Run the trial to its next milestone; return the batch."""
        self._order = order
        return pickle.dumps(self._go(until, save), protocol=5)

    def go_on(self, order: int) -> bytes | None:
        """Run on after a batch was sent off; None where that is not what the trial should do (any more)."""
        if not self._running or order != self._order:
            return None
        return pickle.dumps(self._go(self._until, self._save), protocol=5)

    def save(self) -> CheckpointRef | Failure | None:
        """Write a checkpoint of the trial as it is now."""
        try:
            return self._executor.save() if self._executor is not None else None
        except Exception as error:
            return failure_of(error)

    def end(self, warm: bool) -> None:
        """End the trial; `warm` keeps it in memory for its next launch."""
        self._running = False
        self._end(warm)
        self._log.close()

    def close(self) -> None:
        """Give back whatever is held, before the process ends."""
        self._running = False
        if self._executor is not None:
            self._executor.close()
        elif self._gang is not None:
            self._gang.close()
        self._log.close()

    def _end(self, warm: bool) -> None:
        if self._executor is not None:
            self._executor.end(warm=warm)

    def _go(self, until: float | None, save: bool) -> Batch:
        executor = self._executor
        assert executor is not None
        self._until, self._save = until, save
        deadline = time.monotonic() + executor.job.flush_s
        batch = executor.run(until, save, lambda: time.monotonic() >= deadline)
        self._running = batch.state == "running"
        if batch.failure is not None:
            self._log.write(batch.failure.traceback or batch.failure.message + "\n")
        return batch


class _Log:
    """`log.txt` of the present trial, made with the first line that is printed."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: TextIO | None = None

    def open(self, folder: str) -> None:
        self.close()
        self._path = Path(folder, "log.txt") if folder else None

    def write(self, text: str) -> None:
        if self._file is None and self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        if self._file is not None:
            self._file.write(text)

    def close(self) -> None:
        self._path = None
        if self._file is not None:
            self._file.close()
            self._file = None


class _Tee:
    """A text stream that writes to the log as well; all else is the stream's own."""

    def __init__(self, stream: TextIO, log: _Log) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
