"""What a checkpoint costs the training: seconds that a loop of steps is delayed, and how often the bytes are moved.

Each side runs the same steps in an executor; in the second step a checkpoint is

- plain: copied with `shutil.copytree`, or, of a class, just written: no sums, not synced, not whole after a crash;
- before: handled as up to version 0.1, all in the training's time: copied aside and into the storage (a class writes
  there itself), hashed, synced and renamed;
- now: reported (a function), or asked for by `checkpoint_every` (a class).

`delay`: from the start of that step to that of the next, less a step without a checkpoint: how long the training is
held up. `loop`: the time of all steps less that of the same steps without a checkpoint, so that what is done behind the
training counts as far as it slows the training down. Both are medians over the rounds, in which the sides take turns.
`reads` and `copies` are the bytes that the process has read and written (from /proc, also behind the training), in
sizes of the checkpoint; for a class the first writing is its own.

    python -m benchmarks.checkpoints
    python -m benchmarks.checkpoints --quick --json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.report import Table
from tune_platform.backends.executor import Executor
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.reports import Report
from tune_platform.resources import Resources
from tune_platform.trainable import Trainable, report

FILES = 4
STEPS = 12
AT = 2
_WORK = bytes(1 << 20)


def train_a_little(starts: list[float]) -> None:
    """Note the time, and compute for some 0.05 s without holding the interpreter, as a training step does."""
    starts.append(time.perf_counter())
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        hashlib.blake2b(_WORK).digest()


def write_files(directory: Path, content: bytes) -> None:
    """Write a checkpoint of FILES files."""
    for number in range(FILES):
        (directory / f"{number}.bin").write_bytes(content)


def keep_as_before(staged: Path, place: Path) -> None:
    """Hash, sync and rename what lies in `staged`: what the storage of version 0.1 did in the training's time."""
    for path in sorted(staged.iterdir()):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
            os.fsync(file.fileno())
    staged.rename(place)


def function(side: str, starts: list[float], source: Path, scratch: Path) -> Callable[[dict[str, Any]], None]:
    """Return a train function whose step AT keeps the directory `source`."""

    def train(config: dict[str, Any]) -> None:
        for step in range(1, STEPS + 1):
            train_a_little(starts)
            at = step == AT
            if at and side == "plain":
                shutil.copytree(source, scratch / "kept")
            elif at and side == "before":
                shutil.copytree(source, scratch / "aside")
                shutil.copytree(scratch / "aside", scratch / "hidden")
                keep_as_before(scratch / "hidden", scratch / "kept")
            report({"loss": 1.0}, checkpoint=source if at and side == "now" else None)

    return train


def class_of(side: str, starts: list[float], content: bytes, scratch: Path) -> type[Trainable]:
    """Return a Trainable whose step AT writes `content` to FILES files; `now` it is asked to at step AT."""

    class Writing(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.now = 0

        def step(self) -> Mapping[str, Any]:
            self.now += 1
            train_a_little(starts)
            if self.now == AT and side in ("plain", "before"):
                hidden = scratch / "hidden"
                hidden.mkdir()
                write_files(hidden, content)
                if side == "before":
                    keep_as_before(hidden, scratch / "kept")
            return {"loss": 1.0}

        def save_checkpoint(self, directory: Path) -> bool:
            if self.now == AT:
                write_files(directory, content)
            return self.now == AT

    return Writing


def run(trainable: Any, root: Path, every: int) -> tuple[float, int, int]:
    """Run STEPS steps; return their seconds, and the bytes read and written until all is finished."""
    job = Job(
        experiment="benchmark", trainable=trainable, metrics=("loss",), checkpoints=str(root), checkpoint_every=every
    )
    executor = Executor(job, on_written=lambda: None)
    launch = Launch(
        trial=0, attempt=1, config={}, checkpoint=None, start=0, committed=0, until=STEPS, save=False,
        resources=Resources(cpu=1), nodes=(0,),
    )  # fmt: skip
    executor.begin(launch)
    read, written = _moved()
    start = time.perf_counter()
    reports: list[Report | None] = []
    _, failure = executor.run(STEPS, False, reports.append, lambda: False)
    seconds = time.perf_counter() - start
    executor.close()
    if failure is not None or len(reports) != STEPS:
        raise RuntimeError(f"the run failed: {failure}")
    read_after, written_after = _moved()
    return seconds, read_after - read, written_after - written


def measure(kind: str, content: bytes, rounds: int, home: Path) -> dict[str, float]:
    """Return the delays and the bytes moved of a `kind` (function or class), for each side."""
    source = home / "source"
    if not source.exists():
        source.mkdir()
        write_files(source, content)
    size = FILES * len(content)
    sides = ("none", "plain", "before", "now")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    held: dict[str, list[float]] = {side: [] for side in sides}
    moved: dict[str, tuple[float, float]] = {}
    make = partial(function, source=source) if kind == "function" else partial(class_of, content=content)
    for turn in range(rounds):
        for side in (*sides[turn % 4 :], *sides[: turn % 4]):
            scratch = home / "scratch"
            scratch.mkdir()
            write_files(scratch, content)  # a virtual machine is slow to give memory that has long not been used
            for path in scratch.iterdir():
                path.unlink()
            os.sync()  # none pays for what another has left unwritten
            # Only the side `now` leaves the checkpoint to the platform.
            every = AT if kind == "class" and side == "now" else 0
            starts: list[float] = []
            took, read, written = run(make(side, starts, scratch=scratch), home / "root", every)
            steps = [after - before for before, after in pairwise(starts)]
            held[side].append(steps[AT - 1] - statistics.median(steps))
            seconds[side].append(took)
            moved[side] = (read / size, written / size)
            shutil.rmtree(scratch)
            shutil.rmtree(home / "root", ignore_errors=True)
    found: dict[str, float] = {}
    for side in sides[1:]:
        found[f"{kind}_{side}_delay_s"] = statistics.median(held[side])
        found[f"{kind}_{side}_loop_s"] = statistics.median(
            with_it - without for with_it, without in zip(seconds[side], seconds["none"], strict=True)
        )
        found[f"{kind}_{side}_reads"], found[f"{kind}_{side}_copies"] = moved[side]
    found[f"{kind}_delay_ratio_to_before"] = found[f"{kind}_now_delay_s"] / found[f"{kind}_before_delay_s"]
    found[f"{kind}_delay_ratio_to_plain"] = found[f"{kind}_now_delay_s"] / found[f"{kind}_plain_delay_s"]
    return found


def _moved() -> tuple[int, int]:
    """Return the bytes that this process has read and written so far; zeros where the system does not say."""
    try:
        counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return 0, 0
    return int(counters["rchar"]), int(counters["wchar"])


def main() -> None:
    """Run both kinds and print them."""
    parser = argparse.ArgumentParser(description="What a checkpoint costs the training")
    parser.add_argument("--quick", action="store_true", help="a smaller checkpoint and fewer rounds: within 40 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--mb", type=float, help="size of the checkpoint in MB (200, with --quick 100)")
    arguments = parser.parse_args()
    megabytes = arguments.mb or (100 if arguments.quick else 200)
    content = os.urandom(int(megabytes * 1e6 / FILES))
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as home:
        for kind in ("function", "class"):
            found |= measure(kind, content, 4 if arguments.quick else 12, Path(home))
    goals = {
        "function_now_reads": "1",
        "function_now_copies": "1",
        "class_now_reads": "1",
        "class_now_copies": "1",
        "function_delay_ratio_to_before": "<= 0.6",
        "class_delay_ratio_to_before": "<= 0.6",
    }
    table = Table("figure", "measured", "goal")
    for name, value in found.items():
        table.add(name, f"{value:.3g}", goals.get(name, ""))
    table.print()
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
