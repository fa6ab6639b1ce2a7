"""Images that threads read ahead of the training, beside the same ones read when they are needed.

    python -m benchmarks.reading --quick
    python -m benchmarks.reading

Writes JPEG files of 224 x 224 pixels and trains on them by `ClassificationTrainable`, with one CPU, so that a thread of
the trial's own process reads. Both forms take the same steps on the same batches, in turn, each first in every other
round, in seconds of the clock. "cnn" trains the small network; "device" waits instead, as long as it takes to read a
batch: what an accelerator leaves to the CPU while it works. A ratio above 1 is the gain.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.report import Table
from tune_platform.trainable import TrialContext
from tune_platform.trainables.classification import ClassificationTrainable
from tune_platform.trainables.pixels import ThreadedLoader

SIDE, BATCH = 224, 16


class WhenNeeded(ClassificationTrainable):
    """Reads each batch when the training asks for it."""

    def _batches(self, rank: int, world_size: int) -> Any:
        loader = super()._batches(rank, world_size)
        assert isinstance(loader, ThreadedLoader)
        return DataLoader(loader.dataset, BATCH, sampler=loader.sampler, drop_last=True)


class OnADevice:
    """Waits so many seconds for a step, in place of a device that computes it."""

    wait_s = 0.0

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Wait; return what all parameters have a gradient of."""
        time.sleep(self.wait_s)
        return torch.stack([parameter.sum() for parameter in model.parameters()]).sum() * 0


class DeviceAhead(OnADevice, ClassificationTrainable):
    """A step that waits, and images that are read ahead."""


class DeviceWhenNeeded(OnADevice, WhenNeeded):
    """A step that waits, and images that are read when they are needed."""


def write(folder: Path, count: int) -> None:
    """Write a folder of smooth noise in two classes: files of some 20 KB, which take as long as photographs."""
    draws = np.random.default_rng(0)
    for part, images in (("train", count), ("val", 2), ("test", 2)):
        for name in ("one", "two"):
            (folder / part / name).mkdir(parents=True)
            for number in range(images // 2):
                coarse = Image.fromarray(draws.integers(0, 256, (28, 28, 3), dtype=np.uint8))
                coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
                    folder / part / name / f"{number}.jpg", quality=90
                )


def begin(kind: type[ClassificationTrainable], folder: Path, steps: int) -> ClassificationTrainable:
    """Return a trial whose `step` takes so many inner steps, the first of them taken."""
    trainable = kind(TrialContext(resources={"cpu": 1}))
    trainable.setup(
        {
            "task": "image_folder",
            "root": str(folder),
            "model": "cnn",
            "channels": 4,
            "batch_size": BATCH,
            "lr": 0.01,
            "updates": 10**9,
            "report_every": steps,
            "test": "never",
            "strategy": "all_reduce",
        }
    )
    return trainable


def timed(trainable: ClassificationTrainable, steps: int) -> float:
    """Return images a second of one report."""
    begun = time.perf_counter()
    trainable.step()
    return steps * BATCH / (time.perf_counter() - begun)


def compare(
    before: type[ClassificationTrainable], after: type[ClassificationTrainable], folder: Path, steps: int, rounds: int
) -> dict[str, float]:
    """Warm both up, then run them in turn; return the medians and that of the rounds' ratios."""
    both = {"before": begin(before, folder, steps), "after": begin(after, folder, steps)}
    rates: dict[str, list[float]] = {name: [] for name in both}
    for each in both.values():
        each.step()
    for number in range(rounds):
        for name in sorted(both, reverse=number % 2 == 0):
            rates[name].append(timed(both[name], steps))
    for each in both.values():
        each.cleanup()
    ratios = sorted(after / before for before, after in zip(rates["before"], rates["after"], strict=True))
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {**medians, "ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, within a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, steps = (9, 20) if options.quick else (25, 40)
    table = Table("a step", "when needed, images/s", "ahead, images/s", "ratio", "lowest to highest")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, 640)
        kinds = {"cnn": (WhenNeeded, ClassificationTrainable), "device": (DeviceWhenNeeded, DeviceAhead)}
        for kind, (before, after) in kinds.items():
            if kind == "device":  # a step that takes as long as its images
                only_read = begin(DeviceWhenNeeded, folder, steps)
                only_read.step()
                OnADevice.wait_s = BATCH / timed(only_read, steps)
                only_read.cleanup()
            one = compare(before, after, folder, steps, rounds)
            reach = f"{one['lowest']:.2f} to {one['highest']:.2f}"
            table.add(kind, f"{one['before']:,.0f}", f"{one['after']:,.0f}", f"{one['ratio']:.2f}", reach)
            found[f"{kind}_ratio"] = round(one["ratio"], 3)
    table.print()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
