"""A search on Ray whose workers die: what the command line then writes, and where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TRAIN = """
import os, signal, sys, time
from tune_platform import get_context, report

def train(config):
    print("printed by", get_context().trial, flush=True)
    report({"loss": 1.0})
    if get_context().trial == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"loss": 0.5}
"""
SPEC = """
version: 1
name: dying
entrypoint: dying:train
objective: {metric: loss, mode: min}
space: {x: {type: float, low: 0, high: 1}}
budget: {trials: 2}
retries: 1
backend: {name: ray, num_cpus: 1}
storage: results
"""


def test_nothing_of_rays_own_is_in_what_programs_read(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(TRAIN)
    (tmp_path / "spec.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "tune_platform", "run", "spec.yaml", "--log-format", "json", "--log-to-driver"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    (end,) = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0
    assert end["counts"] == {"COMPLETED": 1, "FAILED": 1}
    printed = [(each["trial"], each["line"]) for each in events if each["event"] == "output"]
    assert printed.count((0, "printed by 0")) == 2  # its retry has printed it, too
    assert printed.count((1, "printed by 1")) == 1
    failed = [each["text"] for each in events if each["event"] == "failed"]
    assert len(failed) == 1 or failed[0] != failed[1]
    assert all("SIGKILL" in text and len(text) < 250 for text in failed)
    assert "ray stop" not in done.stderr + done.stdout
