"""The runbook of docs/cluster.md, block by block, on a cluster of this machine whose parts are killed in between."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray._private.services import get_node_ip_address

from tests.tune_platform.backends.processes import own_folder, running_in
from tune_platform import ExperimentError, Results, load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAGE = Path(__file__).parent.parent / "docs" / "cluster.md"
SECTION = re.compile(r"^### (.+?)$(.*?)(?=^###? |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

CODE = """
import time
from tune_platform import get_checkpoint, report

def train(config):
    state = get_checkpoint()
    first = (state.load()["step"] if state else 0) + 1
    print("begins at", first, flush=True)
    for step in range(first, 2001):
        time.sleep(0.2)
        report({"loss": config["x"] / step}, checkpoint={"step": step})
"""
SPEC = """
version: 1
entrypoint: waits:train
space: {x: {type: float, low: 0, high: 1}}
objective: {metric: loss, mode: min}
search: random
schedule: fifo
budget: {trials: 2, concurrency: 2}
resources: {cpu: 1}
"""


def commands() -> dict[str, list[str]]:
    """Return the commands of each section of the runbook."""
    text = PAGE.read_text()
    text = text[text.index("\n## Runbook\n") :]
    found = {}
    for title, body in SECTION.findall(text):
        lines = [line for block in BLOCK.findall(body) for line in block.splitlines()]
        found[title] = [line.removeprefix("uv run ") for line in lines]
    return found


class Runbook:
    """A cluster, and who follows the page on it."""

    def __init__(self, place: Path, rays: Path) -> None:
        self.place, self.rays = place, rays
        (place / "waits.py").write_text(CODE)
        (place / "search.yaml").write_text(SPEC)
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))} | {
            "RAY_ADDRESS": f"{get_node_ip_address()}:{port}", "RAY_TMPDIR": str(rays), "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(PAGE.parent.parent), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }  # fmt: skip
        self.driver: subprocess.Popen[bytes] | None = None
        self.nodes: list[set[int]] = []  # raylet, and GCS, of each `ray start`

    def follow(self, lines: list[str]) -> dict[str, str]:
        """Run commands in their order; return what each printed. A driver goes on beside them."""
        return {line: self._run(line) for line in lines}

    def _run(self, line: str) -> str:
        if re.match(r"tune-platform (run|resume) ", line):
            with (self.place / "driver.log").open("a") as log:
                words = ["bash", "-c", f"exec {line}"]
                self.driver = subprocess.Popen(words, cwd=self.place, env=self._env, stdout=log, stderr=log)
            return ""
        before = set(running_in(self.rays))
        with (self.place / "out.txt").open("w") as out:  # a pipe would be held open by what `ray start` leaves
            done = subprocess.run(["bash", "-c", line], cwd=self.place, env=self._env, stdout=out,
                                  stderr=subprocess.STDOUT, timeout=120, check=False)  # fmt: skip
        said = (self.place / "out.txt").read_text()
        assert done.returncode == 0, f"{line}\n{said}\n{self.told()}"
        if line.startswith("ray start"):
            new = {pid: words.split()[0] for pid, words in running_in(self.rays).items() if pid not in before}
            self.nodes.append({pid for pid, program in new.items() if program.endswith(("/raylet", "/gcs_server"))})
            assert self.nodes[-1], new
        return said

    def told(self) -> str:
        """Return what the drivers have said."""
        path = self.place / "driver.log"
        return path.read_text() if path.exists() else ""

    def results(self) -> Results | None:
        """Return the search, once there is one."""
        try:
            return load("mine", storage=self.place / "tune_results")
        except ExperimentError:
            return None

    def until(self, what: str, holds: Callable[[Results], bool]) -> None:
        """Wait until something holds of the search while its driver lives."""
        while True:  # the test's time is the limit
            results = self.results()
            if results is not None and holds(results):
                return
            assert self.driver is not None
            assert self.driver.poll() is None, f"{what}: {self.told()}"
            time.sleep(0.2)

    def until_it_goes_on(self) -> None:
        """Wait until both trials have come two steps further."""
        before = {trial.number: trial.step for trial in self.results() or ()}
        self.until(
            "steps of both trials",
            lambda now: len(now) == 2 and all(trial.step >= before.get(trial.number, 0) + 2 for trial in now),
        )

    def kill(self, pids: set[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def close(self) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()
        self.kill(set(running_in(self.rays)))


@pytest.fixture
def runbook(tmp_path: Path) -> Iterator[Runbook]:
    with own_folder() as rays:
        made = Runbook(tmp_path, rays)
        try:
            yield made
        finally:
            made.close()


def test_the_page_gets_a_search_through_the_death_of_everything(runbook: Runbook) -> None:
    todo = commands()
    assert list(todo) == ["Start", "Watch", "A node dies", "The driver dies", "The head dies", "The store dies", "End"]

    runbook.follow(todo["Start"])
    runbook.until_it_goes_on()

    said = runbook.follow(todo["Watch"])
    assert "mine" in said["tune-platform top"]
    assert "begins at 1" in said["tune-platform logs mine 0"]
    assert "whole" in said["tune-platform doctor mine"]

    runbook.kill(runbook.nodes[1])
    lost = lambda now: any("node_lost" in each.reason for trial in now for each in now.why(trial.number))  # noqa: E731
    runbook.until("the loss of the node", lost)
    runbook.follow(todo["A node dies"])
    runbook.until_it_goes_on()

    assert runbook.driver is not None
    runbook.driver.kill()
    runbook.driver.wait()
    runbook.follow(todo["The driver dies"])
    runbook.until_it_goes_on()

    runbook.kill(set().union(*runbook.nodes))
    assert runbook.driver.wait(120) != 0
    assert "is gone" in runbook.told(), runbook.told()
    runbook.follow(todo["The head dies"])
    runbook.until_it_goes_on()

    said = runbook.follow(todo["The store dies"])
    assert "whole" in said["tune-platform doctor mine"]
    assert (runbook.place / "mine.csv").read_text().count("\n") == 3
    runbook.follow(todo["End"])
    assert runbook.driver.wait(60) in (0, 1), runbook.told()
    results = runbook.results()
    assert results is not None
    frame = results.dataframe(reports=True)
    for trial in results:
        assert trial.status == "STOPPED"
        steps = list(frame[frame["trial"] == trial.number]["step"])
        assert steps == list(range(1, trial.step + 1)), "nothing is lost or doubled"
