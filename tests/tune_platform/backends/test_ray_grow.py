"""A gang grows in the middle of its training, on real processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from tune_platform import CheckpointPolicy, Resources, SearchSpec, Trainable, run, uniform
from tune_platform.backends.ray import RayBackend

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Counted(Trainable):
    """Reports how many workers its gang has, and the step that it went on from."""

    uses_gang = True

    def setup(self, config: dict[str, Any]) -> None:
        self.now = self.start = 0

    def step(self) -> Mapping[str, Any] | None:
        if self.now == 30:
            return None
        time.sleep(0.2)
        self.now += 1
        assert self.context.gang is not None
        return {"loss": 1 / self.now, "workers": len(self.context.gang.group().workers), "start": self.start}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "now").write_text(str(self.now))

    def load_checkpoint(self, directory: Path) -> None:
        self.now = self.start = int((directory / "now").read_text())


@pytest.fixture(autouse=True)
def by_value() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_gang_of_two_goes_on_as_one_of_four(tmp_path: Path) -> None:
    spec = SearchSpec(
        name="grows", trainable=Counted, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=1,
        resources=Resources(cpu=1, workers=2, grow=True), checkpoint=CheckpointPolicy(every=4), storage=str(tmp_path),
        backend=RayBackend("local", num_cpus=4),
    )  # fmt: skip
    results = run(spec)
    assert results.counts == {"COMPLETED": 1}
    frame = results.dataframe(reports=True)
    assert list(frame["step"]) == list(range(1, 31)), "nothing is lost or done twice"
    workers = list(frame["metrics/workers"])
    assert (workers[0], workers[-1]) == (2, 4)
    assert list(frame["metrics/start"])[-1] == workers.count(2), "it went on from the step that it had come to"
