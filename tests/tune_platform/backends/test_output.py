from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tune_platform.backends.inline import InlineBackend
from tune_platform.isolation import pump
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Release
from tune_platform.testing.backends import Watch, launch
from tune_platform.trainable import Trainable, get_context, report

PROCESS = """
import os, subprocess, sys
from tune_platform.isolation.output import ProcessLog

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


SILENT = """
import os, sys
from pathlib import Path
from tune_platform.isolation.output import ProcessLog

root, log = Path(sys.argv[1]), ProcessLog()
(root / "told").mkdir()
(root / "told" / "log.txt").write_text("of its first attempt\\n")
for name in ("silent", "next", "told", "files", "warm", "led", "last"):
    log.open(str(root / name), 2, warm=name == "led")
    if name in ("next", "last"):
        print(name, flush=True)
        os.system("echo child >&2")
    if name == "files":
        (root / name / "model.pt").touch()
    if name == "led":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print("nowhere", flush=True)
log.close()
"""


def test_the_log_of_a_silent_trial_becomes_that_of_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SILENT, str(tmp_path)], check=True)
    kept = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    told = kept.pop("told/log.txt")
    assert told.startswith("of its first attempt\n---- attempt 2, ")
    assert kept == {"next/log.txt": "next\nchild\n", "files/model.pt": "", "last/log.txt": "last\nchild\n"}
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "files", "last", "next", "told", "warm",  # that one may be known by its path
    ]  # fmt: skip


@pytest.mark.parametrize("size", [0, 9_999, 10_000, 10_001, 300_000])
def test_a_log_keeps_the_newer_half_of_what_it_may_have(size: int, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    lines = [f"line {number:04d}\n".encode() for number in range(size // 10)]
    log.write_bytes(b"".join(lines) + b"x" * (size % 10))
    before = log.read_bytes()
    with log.open("ab", buffering=0) as writer:
        pump.shorten(str(log), 10_000)
        writer.write(b"more\n")
    note, _, rest = log.read_bytes().partition(b"\n")
    if size <= 10_000:
        assert log.read_bytes() == before + b"more\n"
        return
    left_out = len(before) - (len(rest) - 5)
    assert (
        note
        == f"---- {left_out} bytes were left out here: the log of a trial has at most 10000 (log_limit) ----".encode()
    )
    assert rest == before[left_out:] + b"more\n"
    assert rest.startswith(b"line ")
    assert 4_900 < len(rest) <= 5_005


def test_a_log_that_is_gone_is_no_matter(tmp_path: Path) -> None:
    pump.shorten(str(tmp_path / "log.txt"), 10)
    assert not list(tmp_path.iterdir())


def test_the_pump_puts_a_prefix_before_each_line_and_keeps_the_log_short(tmp_path: Path) -> None:
    log = tmp_path / "trial" / "log.txt"
    command = [sys.executable, "-I", "-S", pump.__file__, str(log), "[rank 3] ", "10000"]
    subprocess.run(command, input=b"a\n\nlast", check=True)
    assert log.read_text() == "[rank 3] a\n[rank 3] \n[rank 3] last\n"
    subprocess.run(command, input=b"".join(b"%d\n" % number for number in range(20_000)), check=True)
    assert log.stat().st_size < 20_000
    assert log.read_text().splitlines()[-1] == "[rank 3] 19999"
    subprocess.run(command, input=b"-" * 9_000, check=True)  # a progress bar
    assert log.read_text().endswith("-" * 4_000 + "\n")
    silent = tmp_path / "silent" / "log.txt"
    subprocess.run([*command[:4], str(silent), *command[5:]], input=b"", check=True)
    assert not silent.parent.exists()


BOUNDED = """
import os, sys, time
from pathlib import Path
from tune_platform.isolation.output import ProcessLog

log, path = ProcessLog(), Path(sys.argv[1], "log.txt")
log.open(sys.argv[1], 1, limit=50_000)
print("x" * 99, *("\\n" for _ in range(2_000)), flush=True)
for _ in range(1_000):
    print("x" * 99, flush=True)
for _ in range(1_200):
    if path.stat().st_size < 30_000:
        break
    time.sleep(0.05)
print("the last", flush=True)
log.close()
"""


def test_a_worker_keeps_the_log_short_while_the_trial_prints(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BOUNDED, str(tmp_path)], check=True)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert "bytes were left out here" in lines[0]
    assert lines[-1] == "the last"
    assert (tmp_path / "log.txt").stat().st_size < 30_100


def endless(config: Mapping[str, Any]) -> None:
    for step in range(5):
        for line in range(1_000):
            print(f"step {step}, line {line}")  # noqa: T201
        report({"loss": 0.0})


def test_an_inline_trial_that_prints_much_has_a_log_of_limited_size(tmp_path: Path) -> None:
    watch = watched(endless, tmp_path, log_limit=8_192)
    watch.backend.submit([launch(0, None)])
    watch.until(lambda: watch.done(0))
    watch.backend.close()
    log = tmp_path / "trial-00000" / "log.txt"
    assert log.stat().st_size < 8_192
    assert "bytes were left out here" in log.read_text().splitlines()[0]
    assert log.read_text().endswith("step 4, line 999\n")


def chatty(config: Mapping[str, Any]) -> None:
    for step in range(2):
        sys.stdout.write(f"trial {get_context().trial}, step {step}\n")
        sys.stderr.write("a warning\n")
        report({"loss": 0.0})


def watched(trainable: Any, directory: Path, **job: Any) -> Watch:
    backend = InlineBackend(num_cpus=2)
    backend.start(Job(experiment="e", trainable=trainable, metrics=("loss",), directory=str(directory), **job))
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
