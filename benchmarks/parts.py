"""The parts of a sharded checkpoint written by each worker, beside the same ones sent through the first worker.

    python -m benchmarks.parts
    python -m benchmarks.parts --workers 2 --rounds 3

Saves and loads a model of 185 MB under `fully_sharded`, by processes of this machine, both forms in turn. Quoted
are medians of seconds, and the most that the first worker's resident memory rose above what it had before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import Table
from tune_platform.distributed import Gang
from tune_platform.trainable import TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.stepping import SteppingWorker


class Sending(SteppingWorker):
    """Has the first worker write, and read, as where no other sees the directory."""

    def save(self, path: str, sign: str) -> int | bytes:
        """Return the bytes."""
        return self.state()

    def sees(self, directory: str, sign: str) -> bool:
        """Say that it does not."""
        return False


class Sent(ClassificationTrainable):
    """Checkpoints that pass the first worker."""

    worker_class = Sending


def measured(action: Callable[[], Any]) -> tuple[float, float]:
    """Return seconds, and the MB that resident memory rose by at most (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = resident("VmRSS")
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun, resident("VmHWM") - before


def resident(kind: str) -> float:
    """Return MB of the process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024 / 1e6


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 4], help="numbers of workers (default 2 4)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = {
        "task": "synthetic", "shape": (3, 32, 32), "examples": 64, "width": 4096, "layers": 3, "batch_size": 2,
        "momentum": 0.0, "updates": 10**6, "report_every": 1, "strategy": "fully_sharded", "test": "never",
    }  # fmt: skip
    table = Table("workers", "form", "save s", "save MB", "load s", "load MB")
    for workers in options.workers:
        gang = Gang("processes", workers)
        figures: dict[str, list[tuple[float, ...]]] = {"sent": [], "own": []}
        try:
            for number in range(options.rounds):
                for form in sorted(figures, reverse=number % 2 == 0):
                    trainable = (Sent if form == "sent" else ClassificationTrainable)(TrialContext(gang=gang))
                    trainable.setup(config)
                    folder = Path(tempfile.mkdtemp())
                    save = measured(lambda t=trainable, f=folder: t.save_checkpoint(f))  # type: ignore[misc]
                    load = measured(lambda t=trainable, f=folder: t.load_checkpoint(f))  # type: ignore[misc]
                    figures[form].append((*save, *load))
                    trainable.cleanup()
                    shutil.rmtree(folder)
        finally:
            gang.close()
        for form, rows in figures.items():
            medians = [statistics.median(column) for column in zip(*rows, strict=True)]
            table.add(workers, form, *(f"{value:.2f}" if value < 20 else f"{value:.0f}" for value in medians))
    table.print()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
