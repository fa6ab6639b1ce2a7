from __future__ import annotations

from pathlib import Path

import pytest

from tune_platform.backends._obituary import cause_of, exit_words, obituary

#: What Ray 2.60 says of a process that is gone.
RAY = """The actor died unexpectedly before finishing this task.
\tclass_name: Worker
\tactor_id: cfbe99552d91e822587f720a01000000
\tpid: 14685
\tip: 192.0.2.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed
by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly."""
KILLED = "it left no word: most likely signal 9 (SIGKILL), which the system sends where memory runs out"
SEGFAULT = """*** SIGSEGV received at time=1795629240 on cpu 0 ***
PC: @     0x7fb2da985ad8  (unknown)  (unknown)
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "train.py", line 9 in train
"""


@pytest.mark.parametrize(
    ("said", "log", "cause"),
    [
        (RAY, "epoch 1\n", KILLED),
        (RAY, "epoch 1\n" + SEGFAULT, "signal 11 (SIGSEGV): a crash in native code; its log has the stack"),
        (RAY, "Fatal Python error: Aborted\n", "signal 6 (SIGABRT): native code gave up; its log has the stack"),
        (RAY, "Fatal Python error: Bus error\n",
         "signal 7 (SIGBUS): a crash in native code; often shared memory is full; its log has the stack"),
        (RAY, "epoch 1\n" + exit_words(3), "the training code called os._exit(3)"),
        (RAY, exit_words(3) + "---- attempt 2, node:1, 2026-01-01 00:00:00 ----\nepoch 1\n",
         KILLED),
        (RAY, "epoch 1\nStack (most recent call first):\n  File \"train.py\", line 9 in train\n",
         "signal 15 (SIGTERM): somebody asked it to end"),
        ("pid: 1 The process receives a SIGTERM.", "", "signal 15 (SIGTERM): somebody asked it to end"),
        ("Task was killed due to the node running low on memory.", "",
         "Ray killed it because its node ran low on memory; see `resources` and the node's memory"),
        ("The actor died because its node has died. Node Id: abc", "", "its node was lost"),
        ("The actor is dead because its owner has died. Worker exit detail: Owner's "
         "node has crashed.", "", "its node was lost"),
    ],
)  # fmt: skip
def test_a_dead_worker_is_one_line(tmp_path: Path, said: str, log: str, cause: str) -> None:
    (tmp_path / "log.txt").write_text(log)
    assert obituary("node1:4711", said, str(tmp_path)) == f"the worker process node1:4711 died: {cause}"


def test_a_worker_without_a_name_has_the_pid_that_ray_tells() -> None:
    assert obituary("", RAY, "").startswith("the worker process of pid 14685 died: it left no word")
    said = "The actor is dead because no node has its resources.\nThe actor never ran - it was cancelled."
    assert obituary("", said, "") == (
        "the worker process never ran: The actor is dead because no node has its resources."
    )


def test_a_worker_that_could_not_start_says_what_was_raised() -> None:
    """As on a node without the platform: nothing has killed that process."""
    said = """The actor died because of an error raised in its creation task, ray::Worker.__init__() (pid=9, ip=1.1.1.1)
    File "worker.py", line 63, in __init__
      gang.start(payload)
ModuleNotFoundError: No module named 'tune_platform'
"""
    why = "could not start: ModuleNotFoundError: No module named 'tune_platform'"
    assert obituary("", said, "") == f"the worker process of pid 9 {why}"
    assert obituary("node1:4711", said, "") == f"the worker process node1:4711 {why}"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (RAY, "worker_died"),
        ("Task was killed due to the node running low on memory.", "out_of_memory"),
        ("ray.exceptions.OutOfMemoryError: 1 worker(s) were killed", "out_of_memory"),
        ("The actor died because its node has died. Node Id: abc", "node_lost"),
        ("The actor is dead because its owner has died. Worker exit detail: Owner's node has crashed.", "node_lost"),
        ("The actor died because its node has died. Its node was preempted.", "preempted"),
        ("pid: 1 The process receives a SIGTERM.", "worker_died"),
    ],
)
def test_causes_are_told_apart(said: str, cause: str) -> None:
    assert cause_of(said) == cause
