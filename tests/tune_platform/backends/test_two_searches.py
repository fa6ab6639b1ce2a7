"""Two drivers on one Ray of two CPUs: the second gets its share although the first has more than enough to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tune_platform.backends.ray import RayBackend
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Release
from tune_platform.protocol.events import CapacityChanged
from tune_platform.resources import Resources
from tune_platform.testing.backends import Watch, falling, launch, trainable_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEARCH = """
import json, sys, time
from pathlib import Path
begin = time.time()
from tune_platform import FIFO, Resources, SearchSpec, run, uniform
from tune_platform.backends.ray import RayBackend

def train(config):
    time.sleep(0.5)
    return {"loss": config["x"]}

def note(controller, events, commands):
    for event in events:
        kind = type(event).__name__
        if kind in ("CapacityChanged", "Reported"):
            cpus = [node.get("cpu", 0) for node in event.nodes] if kind == "CapacityChanged" else None
            print(json.dumps({"kind": kind, "after": time.time() - begin, "at": time.time(), "cpus": cpus}), flush=True)

name, address, trials, storage, priority, mixed = sys.argv[1:]
run(
    SearchSpec(
        name=name, trainable=train, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", scheduler=FIFO(),
        num_samples=int(trials), backend=RayBackend(address, priority=int(priority)), storage=storage,
        resources=(lambda config: Resources(cpu=0.5 if config["x"] < 0.5 else 1)) if mixed else Resources(),
    ),
    listeners=[note],
)
"""


@pytest.fixture
def address() -> Iterator[str]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()
    ray.shutdown()


def search(
    name: str, address: str, trials: int, storage: Path, priority: int = 0, mixed: str = ""
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SEARCH, name, address, str(trials), str(storage), str(priority), mixed]
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def lines(done: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.splitlines() if line.startswith("{")]


def test_a_second_search_gets_its_share_of_a_busy_cluster(address: str, tmp_path: Path) -> None:
    first = search("first", address, 80, tmp_path / "a")
    try:
        time.sleep(8.0)
        assert first.poll() is None
        second = search("second", address, 8, tmp_path / "b")
        standing = top_once_both_share(address)
        of_second = lines(second.communicate(timeout=200)[0])
        ended = time.time()
        assert first.poll() is None, "the first was to be busy all the time"
        of_first = lines(first.communicate(timeout=200)[0])
    finally:
        first.kill()
    reported = [line["after"] for line in of_second if line["kind"] == "Reported"]
    print(f"first report of the second search after {reported[0]:.1f} s")  # noqa: T201 (a figure, with pytest -s)
    assert len(reported) == 8
    assert [line["cpus"] for line in of_second if line["kind"] == "CapacityChanged"] == [[1.0]]
    offers = [line["cpus"] for line in of_first if line["kind"] == "CapacityChanged"]
    assert offers == [[2.0], [1.0], [2.0]], "half for as long as there is another"
    together = [line for line in of_first if line["kind"] == "Reported" and line["at"] < ended]
    assert len(together) > 8, "and the first went on"

    (node,) = standing["nodes"]
    assert node["has"]["CPU"] == 2.0
    told = {each["experiment"]: each for each in standing["searches"]}
    assert (told["first"]["holds"], told["first"]["runs"]) == ("1 cpu", 1)
    assert told["first"]["waits"] > 1
    assert told["first"]["why"] == "its share: 1 places of the cluster, while others want some too"


def test_searches_whose_trials_hold_different_things_share_too(address: str, tmp_path: Path) -> None:
    """Trials of half a CPU and of a whole one."""
    first = search("first", address, 200, tmp_path / "a", mixed="yes")
    try:
        assert first.stdout is not None
        begun = ""
        while "Reported" not in begun:
            begun += first.stdout.readline()
        second = search("second", address, 8, tmp_path / "b", mixed="yes")
        of_second = lines(second.communicate(timeout=200)[0])
        assert first.poll() is None, "the first was to be busy all the time"
    finally:
        first.kill()
    of_first = lines(begun + first.communicate()[0])
    assert sum(line["kind"] == "Reported" for line in of_second) == 8
    offers = [sum(line["cpus"]) for line in of_second if line["kind"] == "CapacityChanged"]
    assert offers
    assert all(0.5 <= offer <= 1.5 for offer in offers), f"its part, as far as whole trials go: {offers}"
    given = [sum(line["cpus"]) for line in of_first if line["kind"] == "CapacityChanged"]
    assert given[0] == 2.0
    assert min(given[1:]) <= 1.5, "and the first had less meanwhile"
    assert any(line["kind"] == "Reported" and line["at"] > of_second[0]["at"] for line in of_first), "but went on"


def top_once_both_share(address: str) -> dict[str, Any]:
    """What `tune-platform top --json` says as soon as the first has no more than its share, and wants more."""
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [str(Path(sys.executable).with_name("tune-platform")), "top", "--address", address, "--json"]
    while True:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        if len(found["searches"]) == 2 and found["searches"][0]["runs"] == 1 and found["searches"][0]["why"]:
            return found


def test_two_searches_take_turns_on_one_place(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.wait_for_nodes()
        searches = [search(name, cluster.address, 16, tmp_path / name) for name in ("first", "second")]
        found = [lines(one.communicate(timeout=200)[0]) for one in searches]
    finally:
        cluster.shutdown()
    times = [[line["at"] for line in told if line["kind"] == "Reported"] for told in found]
    assert [len(each) for each in times] == [16, 16]
    assert max(each[0] for each in times) < min(each[-1] for each in times), "one waited until the other was done"


LONG = """
import json, sys, time
from tune_platform import FIFO, SearchSpec, Trainable, run
from tune_platform.backends.ray import RayBackend

class Steps(Trainable):
    def setup(self, config):
        self.done = self.start = 0

    def step(self):
        time.sleep(0.25)
        self.done += 1
        return {"loss": 1 / self.done, "start": self.start} if self.done <= 80 else None

    def save_checkpoint(self, directory):
        (directory / "n").write_text(str(self.done))

    def load_checkpoint(self, directory):
        self.done = self.start = int((directory / "n").read_text())

def note(run, events, effects):
    for event in events:
        for report in getattr(event, "reports", ()):
            print(json.dumps({"trial": event.trial, "step": report.step, "start": report.metrics["start"],
                              "at": time.time()}), flush=True)

run(
    SearchSpec(
        name="long", trainable=Steps, param_space={}, metric="loss", mode="min", scheduler=FIFO(), num_samples=2,
        backend=RayBackend(sys.argv[1]), storage=sys.argv[2],
    ),
    listeners=[note],
)
"""


def test_a_search_of_higher_priority_has_the_places_of_another_whose_trials_save(address: str, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", LONG, address, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True, env=env
    ) as low:
        assert low.stdout is not None
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["step"] < 4:
            seen += lines(low.stdout.readline())
        urgent = search("urgent", address, 8, tmp_path / "b", priority=1)
        of_urgent = lines(urgent.communicate(timeout=200)[0])
        ended = time.time()
        seen += lines(low.stdout.read())  # communicate() would pass over what is in the file's buffer
    first = min(line["at"] for line in of_urgent if line["kind"] == "Reported")
    before = [line for line in seen if line["at"] < first]
    assert max(line["step"] for line in before) < 80, "it was interrupted in the middle of trials"
    between = [line for line in seen if first + 1 < line["at"] < ended - 3]
    assert not between, "both places were the other's"
    for trial in (0, 1):
        own = [line for line in seen if line["trial"] == trial]
        assert [line["step"] for line in own] == list(range(1, 81)), "nothing is lost or done twice"
        assert own[-1]["start"] > 0, "it went on from where it had saved"


def offers_of(watch: Watch) -> list[list[float]]:
    """The CPUs a node that a driver was told, each time it was told."""
    return [[node["cpu"] for node in event.nodes] for event in watch.events if isinstance(event, CapacityChanged)]


def test_one_that_has_nothing_to_run_leaves_the_cluster_to_others(address: str, tmp_path: Path) -> None:
    idle = RayBackend(address, idle_s=1.0)
    idle.start(Job(experiment="idle", trainable=trainable_of(falling), metrics=("loss",), resources=Resources(cpu=1)))
    watch = Watch(idle)
    idle.submit([launch(trial, 2) for trial in range(2)])
    watch.until(lambda: watch.has_steps(0, 1, 2) and watch.has_steps(1, 1, 2))
    idle.submit([Release(trial=trial) for trial in range(2)])
    watch.until(lambda: idle._leases is not None and not idle._leases.active)  # as one that a person has paused
    watch.settle(3.0)  # the others are told at the next look
    second = search("second", address, 30, tmp_path)
    while second.poll() is None:
        watch.events += idle.poll(0.5)
    of_second = lines(second.communicate()[0])
    # The second tells that it is done as the last thing it does: this one's look may come after that process's end.
    watch.until(lambda: offers_of(watch)[-1] == [2.0])
    offers = [line["cpus"] for line in of_second if line["kind"] == "CapacityChanged"]
    assert offers, "it was told what it has"
    assert all(offer == [2.0] for offer in offers), f"all of it, all the time: {offers}"
    told = offers_of(watch)
    # Between two trials the second may have nothing to run for a moment, too: then this one could have all of it.
    assert told[0] == [1.0], "its share, if it went on"
    assert all(offer in ([1.0], [2.0]) for offer in told)
    idle.close()
