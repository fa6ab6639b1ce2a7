"""A search on a Ray of its own that ends while its last checkpoint is still being written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SEARCH = """
import sys, time
from tune_platform import ASHA, SearchSpec, Trainable, resume, run
from tune_platform.backends.ray import RayBackend

class Slow(Trainable):
    def setup(self, config):
        self.steps = 0

    def step(self):
        time.sleep(0.5)
        self.steps += 1
        return {"loss": 1 / self.steps}

    def save_checkpoint(self, directory):
        time.sleep(4.0)  # the driver hears of the report, and stops the trial, meanwhile
        (directory / "steps").write_text(str(self.steps))

    def load_checkpoint(self, directory):
        self.steps = int((directory / "steps").read_text())

spec = SearchSpec(
    name="ends", trainable=Slow, metric="loss", mode="min", num_samples=2, checkpoint={"every": 3},
    scheduler=ASHA(min=3, max=3), backend=RayBackend(num_cpus=1), storage=sys.argv[1],
)
print([[trial.step, bool(trial.checkpoint)] for trial in run(spec)])
results = resume("ends", spec=spec, storage=sys.argv[1], extend={"trials": 1})
print([[trial.step, bool(trial.checkpoint)] for trial in results])
"""


def test_the_last_checkpoint_of_a_search_is_kept(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SEARCH, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[[3, True], [3, True]]", "[[3, True], [3, True], [3, True]]"], done.stderr
