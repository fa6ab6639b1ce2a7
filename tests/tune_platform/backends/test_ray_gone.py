"""A Ray that dies in the middle of a search: the search says so and can go on later; no trial is to blame."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tune_platform
from tests.tune_platform.backends.processes import own_folder, running_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SEARCH = """
import time
from tune_platform import SearchSpec, run
from tune_platform.backends import _ray_nodes
from tune_platform.backends.ray import RayBackend

_ray_nodes.GONE_AFTER = 2.0

def train(config):
    while True:
        open("begun", "w").close()
        time.sleep(0.2)
        yield {"loss": 1.0}

if __name__ == "__main__":
    spec = SearchSpec(trainable=train, param_space={}, metric="loss", mode="min", num_samples=1, name="e",
                      backend=RayBackend(num_cpus=1, refresh_s=0.5), storage="results", progress="off")
    run(spec)
"""


@pytest.mark.parametrize(
    ("program", "why"),
    [("gcs_server", "its head node has taken no connection"), ("raylet", "the process that runs its workers has died")],
)
def test_the_search_ends_with_the_reason(program: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "search.py").write_text(SEARCH)
    with own_folder() as folder:
        driver = subprocess.Popen(
            [sys.executable, "search.py"], cwd=tmp_path, env={**os.environ, "RAY_TMPDIR": str(folder)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while not (tmp_path / "begun").exists():
                assert driver.poll() is None, driver.communicate()
                time.sleep(0.1)
            [pid] = [pid for pid, line in running_in(folder).items() if line.split()[0].endswith(f"/{program}")]
            os.kill(pid, signal.SIGKILL)
            out, said = driver.communicate(timeout=120)
        finally:
            driver.kill()
    assert out == ""
    before, _, last = said.rstrip().rpartition("\n")
    assert before.startswith("Traceback"), said  # no lines of Ray's own
    assert "Ray that this run had started is gone" in last
    assert why in last
    [trial] = tune_platform.load("e", storage=tmp_path / "results")
    assert trial.status == "RUNNING"  # a resumption starts it again
