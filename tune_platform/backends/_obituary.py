"""Why a worker process died, in one short line: from what Ray says of it, and from its own last words in the log."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tune_platform.protocol.trial_log import LOG, MARK

#: Bytes at the end of the log in which last words are looked for: a crash there comes with the stack of each thread.
_TAIL = 100_000
_EXIT = re.compile(rb"^os\._exit\((-?\d+)\) was called", re.MULTILINE)
_FATAL = re.compile(
    rb"^\*{3} (?P<name>SIG[A-Z]+) received|^Fatal Python error: (?P<words>[A-Z][A-Za-z ]+)$", re.MULTILINE
)
#: A stack that nothing says the reason of: of a signal that asked the process to end.
_ASKED = re.compile(
    rb"^(?:Stack|Current thread 0x\w+) \(most recent call first\):\n(?:  (?:File|\.\.\.|<).*\n?)+\Z", re.MULTILINE
)
#: What Python's `faulthandler` calls the signals.
_SIGNALS = {
    "Segmentation fault": "SIGSEGV", "Bus error": "SIGBUS", "Aborted": "SIGABRT", "Illegal instruction": "SIGILL",
    "Floating point exception": "SIGFPE", "Floating-point exception": "SIGFPE",
}  # fmt: skip
_MEANING = {
    "SIGSEGV": "a crash in native code",
    "SIGBUS": "a crash in native code; often shared memory is full",
    "SIGABRT": "native code gave up",
    "SIGILL": "native code built for another processor",
    "SIGFPE": "an arithmetic error in native code",
    "SIGTERM": "somebody asked it to end",
}
_NODE_LOST = re.compile(r"\bnode\b.{0,60}\b(?:has died|has crashed|was terminated|is dead|marked dead)")
_OUT_OF_MEMORY = re.compile(r"running low on memory|outofmemory")
_OF_THE_CLUSTER = {
    "out_of_memory": "Ray killed it because its node ran low on memory; see `resources` and the node's memory",
    "preempted": "its node was taken back (preempted)",
    "node_lost": "its node was lost",
}
_PID = re.compile(r"\bpid[:=] ?(\d+)")
#: Ray's words for an actor whose constructor, or the import of whose class, has raised.
_NOT_MADE = "error raised in its creation task"


def exit_words(status: int) -> str:
    """Return the last words of a process that ends itself by `os._exit`."""
    return f"os._exit({status}) was called\n"


def obituary(name: str, said: str, folder: str, cause: str = "") -> str:
    """Return one line on the death of the worker `name` (empty: it never told its name).

    `said` is Ray's text; `folder` that of the trial that it ran, where its log lies, if it can be read from here.
    `cause`, where it is known better than from that text.
    """
    known = process_of(name, said)
    who = f"of pid {known[1:]}" if known.startswith(":") else known
    if "never ran" in said:
        return f"the worker process {f'{who} ' if who else ''}never ran: {_last_sentence(said)}"
    if _NOT_MADE in said:  # Ray's text ends with the traceback of what was raised there
        return f"the worker process {f'{who} ' if who else ''}could not start: {said.strip().splitlines()[-1].strip()}"
    why = _OF_THE_CLUSTER.get(cause) or _cause(said, _last_words(folder))
    return f"the worker process {f'{who} ' if who else ''}died: {why}"


def cause_of(error: object) -> str:
    """Return what ended a worker, by what Ray says (an error or its text).

    One of out_of_memory | preempted | node_lost | worker_died.
    """
    low = str(error).lower()
    if _OUT_OF_MEMORY.search(low):
        return "out_of_memory"
    if getattr(error, "preempted", False) or "preempt" in low or "due to draining" in low:
        return "preempted"
    return "node_lost" if _NODE_LOST.search(low) else "worker_died"


def process_of(name: str, said: str) -> str:
    """Return the process of a worker as host:pid; without its host where only Ray tells the pid; else nothing."""
    pid = _PID.search(said)
    return name or (f":{pid[1]}" if pid else "")


def _cause(said: str, words: bytes) -> str:
    low = said.lower()
    if cause := _OF_THE_CLUSTER.get(cause_of(said)):
        return cause
    if left := list(_EXIT.finditer(words)):
        return f"the training code called os._exit({left[-1][1].decode()})"
    if fatal := list(_FATAL.finditer(words)):
        name = next((_named(each) for each in reversed(fatal) if _named(each)), "")
        if name:
            number = getattr(signal, name, None)
            of = f"signal {int(number)} ({name})" if number is not None else name
            meaning = f": {_MEANING[name]}" if name in _MEANING else ""
            return f"{of}{meaning}; its log has the stack"
    if "receives a sigterm" in low or _ASKED.search(words):
        return f"signal 15 (SIGTERM): {_MEANING['SIGTERM']}"
    if code := re.search(r"exit code: (-?\d+)", low):
        return f"it ended itself with exit code {code[1]}"
    return "it left no word: most likely signal 9 (SIGKILL), which the system sends where memory runs out"


def _named(found: re.Match[bytes]) -> str:
    if found["name"]:
        return found["name"].decode()
    return _SIGNALS.get(found["words"].decode(), "")


def _last_words(folder: str) -> bytes:
    if not folder:
        return b""
    try:
        with Path(folder, LOG).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read().rpartition(MARK)[2]  # of this attempt
    except OSError:  # it lies on another node
        return b""


def _last_sentence(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("The actor is dead because")), lines[-1] if lines else "")
    return told[:200]
