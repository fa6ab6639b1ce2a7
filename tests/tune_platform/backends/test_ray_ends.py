"""Trials on a Ray of their own that end while a checkpoint is being written, or in the middle of a step."""

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


STOPPED = """
import sys, time
from tune_platform import SearchSpec, run, uniform
from tune_platform.backends.ray import RayBackend
from tune_platform.store.sql import open_store

storage = sys.argv[1]

def train(config):
    from tune_platform import report
    for step in range(1, 100):
        with open(storage + "/begun", "a") as begun:
            begun.write(f"{step}\\n")
        if step >= 3:
            time.sleep(2.0)
        report({"loss": 1 / step})

def look(run, events, effects):
    if not asked and any(type(event).__name__ == "Reported" for event in events):
        while begun() < 3:
            time.sleep(0.05)
        with open_store(storage) as store, store.open("stopped") as experiment:
            asked.append(experiment.request("stop", 0, {}, time.time()))

def begun():
    with open(storage + "/begun") as steps:
        return len(steps.readlines())

asked = []
spec = SearchSpec(name="stopped", trainable=train, param_space={"x": uniform(0, 1)}, metric="loss", mode="min",
                  num_samples=1, searcher="random", scheduler="fifo", backend=RayBackend(num_cpus=1), storage=storage)
(trial,) = run(spec, listeners=[look])
print(trial.step >= 3, trial.step - begun(), trial.status, trial.reason)
"""


def test_a_person_who_stops_a_trial_keeps_what_its_present_step_gives(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["True 0 STOPPED a person stopped it"], done.stderr
