"""A search on a Ray of its own, whose process gets a signal in the middle of a step."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SEARCH = """
import sys, time
from tune_platform import SearchSpec, Trainable, run
from tune_platform.backends.ray import RayBackend

class Slow(Trainable):
    def setup(self, config):
        self.path = config["path"]

    def step(self):
        open(self.path, "w").close()
        time.sleep(3.0)
        return {"loss": 1.0}

    def save_checkpoint(self, directory):
        pass

results = run(
    SearchSpec(
        trainable=Slow, param_space={"path": sys.argv[1]}, metric="loss", mode="min", num_samples=1,
        backend=RayBackend(num_cpus=1), storage=sys.argv[2],
    )
)
print(results.status, results[0].step, bool(results[0].checkpoint))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_step_and_saves(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM too: `ray.init` has the process exit at it."""
    begun = tmp_path / "begun"
    command = [sys.executable, "-c", SEARCH, str(begun), str(tmp_path / "results")]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not begun.exists():
            assert driver.poll() is None
            time.sleep(0.1)
        time.sleep(0.5)
        driver.send_signal(number)
        out, said = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert out.split() == ["interrupted", "1", "True"]
    assert "waiting for trial 0 to end the present step and to save" in said
