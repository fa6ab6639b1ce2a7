"""The search that is killed: what it trains, and what a driver's process does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_platform.trainable import Trainable

if TYPE_CHECKING:
    from tune_platform.distributed.member import Place

STEPS, PAUSE_S, PLACES = 30, 0.15, 4
#: Which search is running while it is killed, in turn.
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "asha": {"scheduler": {"name": "asha", "min": 3, "max": STEPS, "eta": 3}, "num_samples": 100_000},
    "pbt": {"scheduler": {"name": "pbt", "interval": 5, "max": 10_000}, "num_samples": PLACES},
    "gang": {"scheduler": "fifo", "num_samples": 100_000},
}


class Walk(Trainable):
    """Each value follows from the one before, so that a report which is lost, doubled or from elsewhere is seen.

    It tells, too, which process has made it.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin at a value of the config."""
        self.now, self.value = 0, config["x"]

    def step(self) -> Mapping[str, Any] | None:
        """Go one step on."""
        if self.now == self.config["steps"]:
            return None
        time.sleep(PAUSE_S)
        self.now += 1
        self.value = follow(self.value, self.now)
        return {"loss": self.value, "trained": self.now, "by": os.getpid(), "other": os.getpid()}

    def save_checkpoint(self, directory: Path) -> None:
        """Write the step and the value."""
        (directory / "state.json").write_text(json.dumps([self.now, self.value]))

    def load_checkpoint(self, directory: Path) -> None:
        """Read them."""
        self.now, self.value = json.loads((directory / "state.json").read_text())


class Rank:
    """What each process of a gang serves."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def add(self, value: float) -> tuple[int, float]:
        """Return which process this is, and the sum of the values of all."""
        import torch

        return os.getpid(), float(self.place.comm.all_reduce(torch.tensor([value], dtype=torch.float64), "sum"))


class Gang(Walk):
    """The same by a gang of two: a step is done once both have added up, so that one alone goes nowhere.

    The process that does not speak for the trial is told as `other`.
    """

    uses_gang = True

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with a gang that serves nothing yet."""
        super().setup(config)
        self.group: Any = None

    def step(self) -> Mapping[str, Any] | None:
        """Go one step on, with whoever is lost replaced until all have answered."""
        gang = self.context.gang
        assert gang is not None
        while True:
            group = gang.group()
            if group is not self.group:
                group.open("rank", Rank)
                self.group = group
            answers = group.call("rank", "add", 1.0)
            if all(answer.ok for answer in answers):
                break
            if wrong := [answer.traceback for answer in answers if answer.traceback]:
                raise RuntimeError(wrong[0])
        assert [answer.value[1] for answer in answers] == [float(len(answers))] * len(answers)
        report = super().step()
        return report and {**report, "other": answers[1].value[0]}


def follow(value: float, step: int) -> float:
    """Return the value of a step from that of the one before."""
    return 0.9 * value + 1.0 / step


def drive(name: str, address: str, storage: str) -> None:
    """Run the search, or go on with it; what a driver's process does."""
    from tune_platform import CheckpointPolicy, Resources, SearchSpec, run, uniform
    from tune_platform.backends.ray import RayBackend

    gang, steps = name == "gang", 10**6 if name == "pbt" else STEPS
    spec = SearchSpec(
        name=name, trainable=Gang if gang else Walk, param_space={"x": uniform(0, 1), "steps": steps},
        metric="loss", mode="min", searcher="random", resources=Resources(cpu=0.5, workers=2 if gang else 1),
        max_concurrent=PLACES // 2 if gang else PLACES, checkpoint=CheckpointPolicy(every=2), if_exists="resume",
        storage=storage, progress="off", backend=RayBackend(address, refresh_s=1.0), seed=3, **SEARCHES[name],
        retries={"worker_died": 10**6},  # one of four trials is killed more often than it is tried again by default
    )  # fmt: skip
    run(spec)
