"""What a trial leaves running behind itself: processes, which are ended, and threads, which nobody can end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

from tune_platform.isolation.origin import is_users

logger = logging.getLogger(__name__)

#: Seconds that a process has to end after SIGTERM, and a thread to come to its end.
_TERM_S = 2.0
_JOIN_S = 1.0
#: And one that has ended, to be gone from the system, too.
_EXIT_S = 0.2
#: How often children that there are, but are not listed, are looked for, every 10 ms.
_LOOKS = 20
#: Processes that serve all of a process and not a trial, by words of their command lines: those of multiprocessing and
#: joblib, the compilers of torch, the workers of a gang, and what copies their output.
_HELPERS = (
    b"resource_tracker", b"forkserver", b"compile_worker", b"tune_platform.distributed.processes", b"isolation/pump.py",
)  # fmt: skip
_LOKY = ("joblib.externals.loky.reusable_executor", "loky.reusable_executor")


class Leftovers:
    """The processes and threads that have been started since `begin`.

    `alone`: all that this process starts is a trial's. Else, where the trials run in a user's own program, only what
    the thread that trains has started.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._alone = alone
        self._children: set[int] = set()
        self._lasting: set[int] = set()  # threads in the system that are not Python's
        self._threads: WeakSet[threading.Thread] = WeakSet()

    def begin(self) -> None:
        """What there is now belongs to no trial."""
        self._children = self._listed()
        self._threads = WeakSet(threading.enumerate())

    def end(self, trial: int) -> str:
        """End the processes; return the names of threads in which training code still runs, or nothing."""
        if has_children():
            if not self._alone:
                self._await_exits()
            self._end_children(trial)
        return ", ".join(thread.name for thread in self._running())

    def _new_children(self) -> set[int]:
        return {pid for pid in self._listed() - self._children if not _is_helper(pid)}

    def _listed(self) -> set[int]:
        return children("*" if self._alone else str(threading.get_native_id()))

    def _await_exits(self) -> None:
        """Wait for threads that have ended in Python, but not in the system: then their children pass to this one."""
        ended = {task for task in _tasks() if task not in {thread.native_id for thread in threading.enumerate()}}
        _comes_true(lambda: not (ended - self._lasting) & _tasks(), _EXIT_S)
        self._lasting = ended & _tasks()

    def _end_children(self, trial: int) -> None:
        if not self._new_children():
            return
        gc.collect()  # many end their processes with the object that has started them
        for name in _LOKY:
            executor = getattr(sys.modules.get(name), "_executor", None)
            if executor is not None:  # it would hand out dead workers
                executor.shutdown(wait=True, kill_workers=True)
        left = self._new_children()
        if not left:
            return
        words = ", ".join(f"{pid} ({_command(pid).decode(errors='replace')[:60].strip() or 'ended'})" for pid in left)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            if _comes_true(lambda: not _reaped(left), _TERM_S):
                break
        logger.warning("trial %d left processes behind, which were ended: %s", trial, words)

    def _running(self) -> list[threading.Thread]:
        new = [thread for thread in threading.enumerate() if thread not in self._threads]
        new = [thread for thread in new if _runs_users_code(thread)]
        if new:
            _comes_true(lambda: not any(map(_runs_users_code, new)), _JOIN_S)
        return [thread for thread in new if _runs_users_code(thread)]


def has_children() -> bool:
    """Whether this process has any child, in about a microsecond."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def children(task: str = "*") -> set[int]:
    """Return the numbers of this process's children, or those of one of its threads; none where it cannot be known."""
    tasks = Path("/proc/self/task")
    found: set[int] = set()
    for _ in range(_LOOKS):
        if not has_children() or not tasks.exists():
            break
        # A child passes to another thread when the one that has started it ends, and may be missed meanwhile.
        for _ in range(2):
            for path in tasks.glob(f"{task}/children"):
                with suppress(OSError):
                    found.update(map(int, path.read_text().split()))
        if found or task != "*":
            break
        time.sleep(0.01)
    return found


def _tasks() -> set[int]:
    """Return the threads of this process by the system's numbers; none where it does not list them."""
    with suppress(OSError):
        return {int(path.name) for path in Path("/proc/self/task").iterdir()}
    return set()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


def _is_helper(pid: int) -> bool:
    command = _command(pid)
    return any(word in command for word in _HELPERS)


def _reaped(pids: set[int]) -> set[int]:
    """Collect those that have ended, and return the others."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        multiprocessing.active_children()  # collects its own
    left = set()
    for pid in pids:
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                left.add(pid)
    return left


def _comes_true(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (true := what()) and time.monotonic() < end:
        time.sleep(0.01)
    return true


def _runs_users_code(thread: threading.Thread) -> bool:
    """Whether a function that is not of a library is under way there: one that waits for work harms nobody."""
    frame = sys._current_frames().get(thread.ident or 0) if thread.is_alive() else None
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False
