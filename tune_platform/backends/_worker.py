"""What runs in a worker process of the Ray backend: an executor behind plain calls. Imports no Ray."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, NoReturn

from tune_platform.backends._batch import Answer, Failure, State, failure_of, traceback_of
from tune_platform.backends._channel import Channel, Sent
from tune_platform.backends._journal import Journal
from tune_platform.backends._link import LEAVE, Door
from tune_platform.backends._memory import Copy, Fetch
from tune_platform.backends._obituary import exit_words
from tune_platform.backends.executor import Executor, trial_folder
from tune_platform.distributed.gang import Gang
from tune_platform.isolation.output import ProcessLog
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.resources import Resources
from tune_platform.surroundings import Surroundings

#: What `launch` answers, with what it is, where something of a trial before still runs: the process must be replaced.
SPOILT = b"spoilt"

_LAUNCH = tuple(field.name for field in fields(Launch) if field.name != "resources")
_RESOURCES = tuple(field.name for field in fields(Resources))
_of_launch, _of_resources = attrgetter(*_LAUNCH), attrgetter(*_RESOURCES)


def plain_launch(launch: Launch) -> tuple[Any, ...]:
    """Return a launch as plain values, whose pickle takes a fraction of the time."""
    return (*_of_launch(launch), _of_resources(launch.resources))


class Worker:
    """Serves one trial after the other; each method is one actor call.

    `launch`, `advance`, `save`, `end` and `close` are run one at a time, in the order given, by the thread that trains;
    while that is in `serve` they come through a socket. A launch or an advance lasts as long as its leg, and brings the
    batch that ends it. `collect` and `ask` come from other threads at any time. `order` numbers the legs.

    Arguments and answers cross as plain pickles in bytes: Ray's own way to send objects takes several times as long.
    `surroundings` are the driver's. `gang`: the workers that trials on this one will ask for.
    """

    def __init__(self, payload: bytes, surroundings: Surroundings, gang: Gang | None = None) -> None:
        self._strange = surroundings.take()
        if threading.current_thread() is threading.main_thread():
            # Ray would raise SystemExit in this thread, later, in the middle of whatever trial is here by then.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            faulthandler.register(signal.SIGTERM, file=2, all_threads=False, chain=True)  # last words, in the log
        self._payload = payload
        self._gang = gang
        if gang is not None:  # its other workers load torch and the user's code while this process does
            gang.start(payload)
        self._executor: Executor | None = None
        self._launch: Launch | None = None
        self._resources = Resources()
        self._channel = Channel()
        self._door: Door | None = None
        self._log = ProcessLog()
        os._exit = _telling(os._exit, self._log)  # type: ignore[assignment]

    # in the training thread

    def launch(self, packed: bytes, fetch: Fetch | None = None) -> bytes | None:
        """End the trial before and run this one to its first milestone; takes (order, plain launch, warm).

        `fetch` brings what `give` of the process that wrote its checkpoint returns.
        """
        order, plain, warm = pickle.loads(packed)
        launch = self._launch = self._made(plain)
        executor = self._executor
        try:
            # User code is first seen here, not in the constructor: its errors are a trial's failure.
            if executor is None:
                job = pickle.loads(self._payload)
                executor = self._executor = Executor(job, "ray", self._gang, self._channel.written)
                self._channel.attach(executor, Journal(job.directory))
            executor.end(warm=warm)
            if not executor.clean:
                return SPOILT + executor.left.encode(errors="replace")
            self._log.open(
                trial_folder(executor.job, launch.trial), launch.attempt, warm=warm, limit=executor.job.log_limit
            )
        except BaseException as error:
            failure = failure_of(error)
            mistaken = isinstance(error, (ImportError, AttributeError))
            failure = Failure(failure.cause, failure.message, failure.traceback, fatal=mistaken)
            self._channel.begin(order, launch.trial, launch.attempt, 0.0)
            self._finish("failed", failure)
            return self._last()
        if not self._channel.begin(order, launch.trial, launch.attempt, executor.job.flush_s):
            return None
        failed = executor.begin(launch, fetch)
        if failed:
            self._finish("failed", failed)
            return self._last()
        return self._go(launch.until, launch.save)

    def advance(self, packed: bytes) -> bytes | None:
        """Run the trial to its next milestone; takes (order, until, save)."""
        order, until, save = pickle.loads(packed)
        executor, launch = self._executor, self._launch
        assert executor is not None
        assert launch is not None
        if not self._channel.begin(order, launch.trial, launch.attempt, executor.job.flush_s):
            return None
        return self._go(until, save)

    def save(self) -> bytes | None:
        """Write a checkpoint of the trial, which waits."""
        failure = self._save()
        if failure is not None:
            self._finish("failed", failure)
        return self._last()

    def end(self, warm: bool) -> None:
        """End the trial; `warm` keeps it in memory for its next launch."""
        if self._executor is not None:
            self._executor.end(warm=warm)
        self._log.close(warm=warm)

    def close(self) -> bytes | None:
        """Give back whatever is held, before the process ends."""
        if self._executor is not None:
            self._executor.close()
        elif self._gang is not None:
            self._gang.close()
        self._log.close()
        last = self._last()
        self._channel.close()
        return last

    def serve(self) -> bool:
        """Do what comes through the door until it says so; False where nobody has come, or the connection broke."""
        line = self._door.wait() if self._door is not None else None
        while line is not None and (frame := line.wait()) is not None:
            kind, args = pickle.loads(frame)
            if kind == LEAVE:
                return True
            try:
                answer = getattr(self, kind)(*args)
            except BaseException as error:  # one of the platform's own: it comes as that of a call would
                answer = RuntimeError(traceback_of(error))
            if not line.send(pickle.dumps(answer, protocol=5)):
                break
        return False

    # at any time

    def open_door(self, host: str, key: bytes) -> int | None:
        """Let the driver in through a socket at this address of the machine; return its port, None where none can be.

        Raises nothing: where there is no way, everything goes through Ray's calls.
        """
        try:
            self._door = Door(host, key)
        except OSError:
            return None
        return self._door.port

    def collect(self, order: int) -> bytes | None:
        """Wait for something to tell of this leg and return it; None once it is over and all has been told."""
        return self._packed(self._channel.collect(order))

    def ask(self, order: int, save: bool, halt: bool) -> bool:
        """Have this leg save or halt after its present step; False where it has ended already."""
        return self._channel.ask(order, save=save, halt=halt)

    def give(self, trial: int, uri: str) -> Copy | None:
        """Return the copy of a checkpoint that was written here, if it is still in memory."""
        return self._executor.give(CheckpointRef(trial, 0, uri)) if self._executor is not None else None

    # inside

    def _made(self, plain: tuple[Any, ...]) -> Launch:
        *values, resources = plain
        if resources != _of_resources(self._resources):  # rarely: making them takes a while, as they are checked
            self._resources = Resources(**dict(zip(_RESOURCES, resources, strict=True)))
        return Launch(**dict(zip(_LAUNCH, values, strict=True)), resources=self._resources)

    def _go(self, until: float | None, save: bool) -> bytes | None:
        executor, channel = self._executor, self._channel
        assert executor is not None
        state: State = "running"
        failure: Failure | None = None
        while state == "running" or not self._finish(state, failure):
            if state == "running":
                state, failure = executor.run(until, save, channel.put, channel.is_asked)
            asked = channel.take_asked() if state in ("running", "waiting") else None
            if asked is not None:
                state = "waiting" if asked.halt else state
                if asked.save and (failure := self._save()) is not None:
                    state = "failed"
        return self._last()

    def _save(self) -> Failure | None:
        """Answer a Save; return the failure of the trial that comes of it."""
        executor, launch = self._executor, self._launch
        assert launch is not None
        self._channel.hold()
        try:
            ref = executor.save() if executor is not None else None
        except BaseException as error:
            self._channel.answer(None)
            if executor is not None:
                executor.end(reusable=False)
            return failure_of(error)
        self._channel.answer(Answer(launch.trial, launch.attempt, ref))
        return None

    def _finish(self, state: State, failure: Failure | None) -> bool:
        """End the leg; False where the driver has asked for something meanwhile that is to be done first."""
        if failure is not None:  # in the log before anybody hears of it
            self._log.write(failure.traceback or failure.message + "\n")
        return self._channel.finish(state, failure)

    def _last(self) -> bytes | None:
        return self._packed(self._channel.last_batch())

    def _packed(self, sent: Sent | None) -> bytes | None:
        if sent is None:
            return None
        name, strange = (_name(), self._strange) if sent.number == 1 else ("", "")
        return pickle.dumps((sent.number, sent.order, name, strange, sent.batch, sent.more), protocol=5)


def _name() -> str:
    """Return where this process runs: host, process, and the GPUs that Ray gave it."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"{socket.gethostname()}:{os.getpid()}" + (f" gpu {gpus}" if gpus else "")


def _telling(leave: Callable[[int], NoReturn], log: ProcessLog) -> Callable[[int], NoReturn]:
    """Return `os._exit` with last words in the log: nothing else tells how this process ended."""
    own = os.getpid()

    def tell(status: int) -> NoReturn:
        if os.getpid() == own:  # not a copy of it, which ends as it should
            log.write(exit_words(status))
        leave(status)

    return tell
