from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tune_platform.backends.inline import InlineBackend
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Release
from tune_platform.testing.backends import Watch, launch
from tune_platform.trainable import Trainable, get_context, report

PROCESS = """
import os, subprocess, sys
from tune_platform.backends._output import ProcessLog

log = ProcessLog()
print("before")
log.open(sys.argv[1] + "/a", 1)
print("python")
os.write(2, b"descriptor 2\\n")
subprocess.run(["sh", "-c", "echo child; echo grandchild >&2"])
log.open(sys.argv[1] + "/b", 1)
log.open(sys.argv[1] + "/a", 2)
sys.stdout.write("no end of line")
log.close()
print("after")
os.write(2, b"after\\n")
"""


def test_descriptors_lead_to_the_log_and_back(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROCESS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
    assert done.stderr == "after\n"
    first, mark, second = (tmp_path / "a" / "log.txt").read_text().partition("---- attempt 2, ")
    assert first == "python\ndescriptor 2\nchild\ngrandchild\n"
    assert mark
    assert second.endswith(" ----\nno end of line")
    assert not (tmp_path / "b").exists()  # it printed nothing


def chatty(config: Mapping[str, Any]) -> None:
    for step in range(2):
        sys.stdout.write(f"trial {get_context().trial}, step {step}\n")
        sys.stderr.write("a warning\n")
        report({"loss": 0.0})


def watched(trainable: Any, directory: Path) -> Watch:
    backend = InlineBackend(num_cpus=2)
    backend.start(Job(experiment="e", trainable=trainable, metrics=("loss",), directory=str(directory)))
    return Watch(backend)


def test_inline_trials_have_what_each_printed_and_so_has_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = sys.stdout, sys.stderr
    watch = watched(chatty, tmp_path)
    watch.backend.submit([launch(0, None), launch(1, None)])
    watch.until(lambda: watch.done(0) and watch.done(1))
    watch.backend.close()
    for trial in range(2):
        text = (tmp_path / f"trial-0000{trial}" / "log.txt").read_text()
        assert text == f"trial {trial}, step 0\na warning\ntrial {trial}, step 1\na warning\n"
    assert capsys.readouterr().out == "".join(f"trial {trial}, step {step}\n" for step in (0, 1) for trial in (0, 1))
    assert (sys.stdout, sys.stderr) == streams


class Fails(Trainable):
    """Prints, then fails."""

    def step(self) -> Mapping[str, Any]:
        sys.stdout.write("here it comes\n")
        raise ValueError("\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07")


def test_a_failure_is_in_the_log_and_has_no_colours_where_it_is_stored(tmp_path: Path) -> None:
    watch = watched(Fails, tmp_path)
    watch.backend.submit([launch(0, None)])
    watch.until(lambda: watch.failure(0))
    failure = watch.failure(0)
    assert failure is not None
    assert failure.message.startswith("ValueError: red link (")
    assert "\x1b" not in failure.message + failure.traceback
    watch.backend.submit([Release(trial=0), launch(0, None, attempt=2)])
    watch.until(lambda: len([event for event in watch.events if event.kind == "failed"]) == 2)
    watch.backend.close()
    text = (tmp_path / "trial-00000" / "log.txt").read_text()
    assert text.startswith("here it comes\nTraceback")
    assert text.count("here it comes\n") == 2
    assert text.count("---- attempt 2, ") == 1


def test_a_silent_trial_leaves_no_folder(tmp_path: Path) -> None:
    watch = watched(lambda config: {"loss": 0.0}, tmp_path)
    watch.backend.submit([launch(0, None)])
    watch.until(lambda: watch.done(0))
    watch.backend.close()
    assert list(tmp_path.iterdir()) == []
