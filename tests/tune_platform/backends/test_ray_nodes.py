"""A cluster of two nodes, and what happens when one of them is lost in the middle of a search."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from ray.cluster_utils import Cluster

from tune_platform import Budget, CheckpointPolicy, SearchSpec, Trainable, run, uniform
from tune_platform.backends._ray_avoid import IN_A_ROW
from tune_platform.backends.ray import RayBackend
from tune_platform.engine.view import RunView
from tune_platform.protocol.effects import Effect, Launched
from tune_platform.protocol.events import CapacityChanged, Event, Reported

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

STEPS = 8


class Located(Trainable):
    """Reports the node that it runs on, and the step that it went on from."""

    def setup(self, config: dict[str, Any]) -> None:
        self.now = self.start = 0

    def step(self) -> Mapping[str, Any] | None:
        import ray

        if self.now == self.config.get("steps", STEPS):
            return None
        time.sleep(0.25)
        self.now += 1
        node = ray.get_runtime_context().get_node_id()
        return {"loss": self.config["x"] + 1 / self.now, "node": node, "start": self.start}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "state.json").write_text(json.dumps(self.now))

    def load_checkpoint(self, directory: Path) -> None:
        self.now = self.start = json.loads((directory / "state.json").read_text())


class Picky(Located):
    """Fails at once wherever it is not on the head node."""

    def step(self) -> Mapping[str, Any] | None:
        import ray

        if ray.get_runtime_context().get_node_id() != self.config["head"]:
            raise OSError("this machine is broken")
        return super().step() if self.now < 2 else None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # As in a script: this module's things travel by value, so that a worker does not import it, and pytest with it.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_node_where_every_trial_fails_is_avoided_and_said(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later: list[tuple[int, ...]] = []
    offers: list[tuple[Mapping[str, float], ...]] = []

    def look(run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        offers.extend(event.nodes for event in events if isinstance(event, CapacityChanged))
        if len(offers) > 1:
            later.extend(effect.nodes for effect in effects if isinstance(effect, Launched))

    head = cluster.head_node.node_id
    spec = SearchSpec(
        name="picky", trainable=Picky, param_space={"x": uniform(0, 1), "head": head}, metric="loss", mode="min",
        num_samples=24, scheduler="fifo", searcher="random",
        budget=Budget(failures=24), storage=str(tmp_path), backend=RayBackend(cluster.address),
    )  # fmt: skip
    results = run(spec, listeners=[look])
    assert results.status == "finished"
    assert results.counts["FAILED"] >= IN_A_ROW
    assert results.counts["FAILED"] + results.counts["COMPLETED"] == 24
    assert offers[0][0]["cpu"] == offers[0][1]["cpu"] == 1
    # Ray lists its nodes in no order: the head may be the second.
    offering = [number for number, node in enumerate(offers[1]) if node.get("cpu")]
    assert len(offering) == 1, "the node of the failures offers nothing any more"
    assert len(later) >= 2
    assert set(later) == {(offering[0],)}
    assert {trial.metrics["node"] for trial in results if trial.status == "COMPLETED"} == {head}
    assert f"is avoided from now on: {IN_A_ROW} trials in a row have failed there" in capsys.readouterr().err


def test_trials_of_a_lost_node_go_on_on_another(cluster: Cluster, tmp_path: Path) -> None:
    head, second = cluster.head_node.node_id, cluster.list_all_nodes()[1]
    other = second.node_id
    removed: list[str] = []

    def remove(run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        """Take the other node away once a trial has written a checkpoint there."""
        for event in events:
            if not isinstance(event, Reported):
                continue
            for report in event.reports:
                if not removed and report.metrics["node"] == other and 3 <= report.step < STEPS - 2:
                    removed.append(other)
                    cluster.remove_node(second, allow_graceful=False)

    spec = SearchSpec(
        name="nodes", trainable=Located, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=6,
        checkpoint=CheckpointPolicy(every=2), storage=str(tmp_path),
        backend=RayBackend(cluster.address, refresh_s=0.5),
    )  # fmt: skip
    results = run(spec, listeners=[remove])
    assert removed, "no trial ran on the second node"
    assert results.status == "finished"
    assert results.counts == {"COMPLETED": 6}
    frame = results.dataframe(reports=True)
    for number, reports in frame.groupby("trial"):
        assert list(reports["step"]) == list(range(1, STEPS + 1)), f"a report of trial {number} was lost or doubled"
    moved = [trial for trial in results if trial.attempt > 1]
    assert len(moved) == 1, "only the trial that ran there was touched"
    nodes = list(frame[frame["trial"] == moved[0].number]["metrics/node"])
    assert (nodes[0], nodes[-1]) == (other, head)
    assert moved[0].metrics["start"] in (2, 4, 6), "it went on from its checkpoint"
    # Ray takes its time to find that a node is gone: a launch may have waited there in vain.
    failed = [line.reason for line in results.why(moved[0].number) if line.verdict == "failed"]
    assert 1 <= len(failed) <= 2, failed
    assert all("node_lost" in reason for reason in failed)
    for number, reports in frame.groupby("trial"):
        assert number == moved[0].number or set(reports["metrics/node"]) == {head}, f"trial {number} was disturbed"


def test_trials_save_and_leave_a_node_that_is_drained(cluster: Cluster, tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    drained: list[int] = []
    commands: list[subprocess.Popen[bytes]] = []
    steps = 60  # 15 seconds: it takes Ray's command a while to come up

    def drain(run: RunView, events: Sequence[Event], effects: Sequence[Effect]) -> None:
        for event in (event for event in events if isinstance(event, Reported)):
            for report in event.reports:
                if not drained and report.metrics["node"] == second.node_id and report.step == 2:
                    drained.append(event.trial)
                    command = [
                        str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.address,
                        "--node-id", second.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
                        "--reason-message", "spot", "--deadline-remaining-seconds", "120",
                    ]  # fmt: skip
                    commands.append(subprocess.Popen(command))

    spec = SearchSpec(
        name="drained", trainable=Located, param_space={"x": uniform(0, 1), "steps": steps}, metric="loss",
        mode="min", num_samples=3, storage=str(tmp_path), backend=RayBackend(cluster.address, refresh_s=0.2),
    )  # fmt: skip
    results = run(spec, listeners=[drain])
    cluster.remove_node(second, allow_graceful=False)  # it may be gone by itself by now
    assert [command.wait() for command in commands] == [0]
    assert drained, "no trial ran on the second node"
    assert results.counts == {"COMPLETED": 3}
    (moved,) = (trial for trial in results if trial.attempt > 1)
    assert moved.number == drained[0]
    frame = results.dataframe(reports=True)
    reports = frame[frame["trial"] == moved.number]
    assert list(reports["step"]) == list(range(1, steps + 1))
    nodes = list(reports["metrics/node"])
    assert nodes[0] == second.node_id != nodes[-1]
    assert moved.metrics["start"] == nodes.count(second.node_id), "nothing that it had done was done again"
    why = [line.reason for line in results.why(moved.number)]
    assert any("will go soon (drained)" in reason for reason in why), why
    assert not any(line.verdict == "failed" for line in results.why(moved.number))


def test_trials_that_want_an_accelerator_run_where_there_is_one(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:A100": 1})
    cluster.wait_for_nodes()
    spec = SearchSpec(
        name="a100", trainable=Located, param_space={"x": uniform(0, 1), "steps": 1}, metric="loss", mode="min",
        num_samples=3, storage=str(tmp_path), backend=RayBackend(cluster.address),
        resources={"cpu": 0.5, "gpu": 0.6, "accelerator": "A100"},
    )  # fmt: skip
    results = run(spec)
    assert results.counts == {"COMPLETED": 3}
    assert {trial.metrics["node"] for trial in results} == {node.node_id}
