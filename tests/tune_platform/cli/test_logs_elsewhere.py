"""What a trial printed on another node, whose disk is not seen from here: a namespace of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune_platform.backends.processes import own_folder, running_in
from tune_platform import ExperimentError, load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RAY = str(Path(sys.executable).with_name("ray"))
#: Starts a node with a host name and a results folder ($2) of its own; $1 is the program, the rest its arguments.
NODE = 'mount --make-rprivate / && mount -t tmpfs tmpfs "$2" && hostname elsewhere && ray=$1 && shift 2 && "$ray" "$@"'
SEARCH = """
import sys, time
from pathlib import Path
from tune_platform import SearchSpec, run, uniform
from tune_platform.backends.ray import RayBackend

def train(config):
    print("line 1", flush=True)
    while not Path(config["go"]).exists():
        time.sleep(0.05)
    print("line 2", flush=True)
    return {"loss": 0.0}

run(SearchSpec(
    name="far", trainable=train, param_space={"go": sys.argv[3]}, metric="loss", mode="min", num_samples=1,
    backend=RayBackend(sys.argv[1]), storage=sys.argv[2], progress="off",
))
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A cluster whose head has no CPU, and whose other node does not see the folder `results`."""
    tried = subprocess.run(
        ["unshare", "--mount", "--uts", "mount", "--make-rprivate", "/"], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"no namespaces to be had: {tried.stderr.strip()}")
    (tmp_path / "results").mkdir()
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "disabled"}
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, words: list[str]) -> None:
        with (tmp_path / name).open("w") as log:
            started.append(subprocess.Popen(words, env=env, stdout=log, stderr=subprocess.STDOUT))
        while "Ray runtime started" not in (tmp_path / name).read_text():
            assert started[-1].poll() is None, (tmp_path / name).read_text()
            time.sleep(0.2)

    with own_folder() as folder:
        common = [f"--temp-dir={folder}", "--disable-usage-stats", "--block"]
        start("head.log", [RAY, "start", "--head", "--port=0", "--num-cpus=0", "--include-dashboard=false", *common])
        found = next(word for word in (tmp_path / "head.log").read_text().split() if word.startswith("--address="))
        there = found.removeprefix("--address=").strip("'")
        inside = ["unshare", "--mount", "--uts", "bash", "-ec", NODE, "node", RAY, str(tmp_path / "results")]
        start("node.log", [*inside, "start", f"--address={there}", "--num-cpus=1", *common[1:]])
        try:
            yield there
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()
            for pid in running_in(folder):
                os.kill(pid, signal.SIGKILL)


def begun(storage: Path) -> bool:
    """Whether the search has its first trial."""
    try:
        return len(load("far", storage=storage)) > 0
    except ExperimentError:
        return False  # not made yet


def test_it_is_read_there_and_followed(address: str, tmp_path: Path) -> None:
    env = os.environ | {"RAY_AUTH_MODE": "disabled", "TUNE_PLATFORM_STORAGE": str(tmp_path / "results")}
    go = tmp_path / "go"
    command = [sys.executable, "-m", "tune_platform", "logs", "far", "0"]

    def logs(*more: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([*command, *more], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                **options)  # fmt: skip

    with (tmp_path / "search.log").open("w") as log:
        search = subprocess.Popen(
            [sys.executable, "-c", SEARCH, address, str(tmp_path / "results"), str(go)], env=env, stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        while not begun(tmp_path / "results"):
            assert search.poll() is None, (tmp_path / "search.log").read_text()
            time.sleep(0.1)
        with logs("-f", "--address", address) as follow:
            assert follow.stdout is not None
            assert follow.stderr is not None
            assert follow.stdout.readline() == "line 1\n", follow.stderr.read()
            go.touch()
            assert follow.stdout.read() == "line 2\n"
            assert follow.wait() == 0
        assert search.wait() == 0, (tmp_path / "search.log").read_text()
    finally:
        search.kill()
        search.wait()
    assert not (tmp_path / "results" / "far" / "trials").exists(), "it lies on the other node alone"
    with logs("-n", "1", "--address", address) as last:
        assert last.communicate() == ("line 2\n", "")
