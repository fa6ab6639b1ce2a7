"""The kills: one of a kind at a random moment, and the seconds until the search goes on."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.scene import PATIENCE_S, Scene
from benchmarks.faults.search import PLACES

KINDS = ("driver", "worker", "raylet", "node", "rank", "gcs", "gcs_back")
#: Those of the head are fewer.
HEADS = ("gcs", "gcs_back")
#: Seconds for which the head is away at least and at most, where it comes back.
AWAY_S = (1.0, 15.0)


def kill(scene: Scene, kind: str, draw: random.Random) -> float:
    """Kill one of that kind at a random moment; return the seconds until the search goes on."""
    _, before = scene.look()
    scene.until("reports", lambda _, count: count >= before + PLACES)
    time.sleep(draw.uniform(0.0, 2.0))
    match kind:
        case "driver":
            return _kill_driver(scene)
        case "gcs":
            return _kill_head(scene)
        case "gcs_back":
            return _bring_head_back(scene, draw)
        case "worker" | "rank":
            return _kill_worker(scene, draw, rank=kind == "rank")
        case _:
            return _kill_node(scene, draw, whole=kind == "node")


def _kill_driver(scene: Scene) -> float:
    assert scene.driver is not None
    scene.driver.kill()
    scene.driver.wait()
    _, before = scene.look()
    began = time.monotonic()
    scene.start_driver()
    scene.until("reports", lambda _, count: count > before)
    return time.monotonic() - began


def _kill_head(scene: Scene) -> float:
    assert scene.driver is not None
    head = scene.cluster.head_node
    began = time.monotonic()
    head.kill_gcs_server(check_alive=False)
    try:
        code = scene.driver.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        scene.driver.kill()
        raise RuntimeError(f"the driver did not end {PATIENCE_S:g} s after its head node had died") from None
    if code == 0 or "gone" not in scene.said():
        raise RuntimeError(f"the driver ended with {code} and without the reason: {scene.said()}")
    _, before = scene.look()
    scene.begin()
    scene.until("reports", lambda _, count: count > before)
    return time.monotonic() - began


def _bring_head_back(scene: Scene, draw: random.Random) -> float:
    head = scene.cluster.head_node
    head.kill_gcs_server(check_alive=False)
    time.sleep(draw.uniform(*AWAY_S))
    with scene.environment():
        head.start_gcs_server()
    began = time.time()

    def one_was_launched(trials: dict[int, Any], _: int) -> bool:
        # What ran has gone on without the head: that all is well again a new launch shows.
        with scene.open() as experiment:
            later = [row for row, _ in experiment.read_log() if row.kind == "launched" and row.time > began]
            return any(trials[row.trial].step > 0 for row in later if row.trial in trials)

    if scene.name == "pbt":  # there nothing is launched but what has failed
        _, before = scene.look()
        scene.until("reports", lambda _, count: count > before + PLACES)
    else:
        scene.until("a launch", one_was_launched)
    return time.time() - began


def _kill_worker(scene: Scene, draw: random.Random, *, rank: bool) -> float:
    living: dict[int, Any] = {}

    def some_run(trials: dict[int, Any], _: int) -> bool:
        living.clear()
        for trial in trials.values():
            if trial.status == "RUNNING":
                living[int(trial.metrics.get("other", 0)) if rank else _pid(trial.worker)] = trial
        for pid in [pid for pid in living if not _title(pid).startswith("ray::")]:
            del living[pid]
        return bool(living)

    scene.until("a trial that runs", some_run)
    victim = draw.choice(sorted(living))
    killed = time.time()
    os.kill(victim, signal.SIGKILL)
    return _time(scene, [living[victim]], {victim}, killed)


def _kill_node(scene: Scene, draw: random.Random, *, whole: bool) -> float:
    trials, _ = scene.look()
    nodes = {_raylet(node): node for node in scene.cluster.worker_nodes}
    there = {raylet: _workers(raylet) for raylet in nodes}
    hit = {raylet: [trial for trial in trials.values() if _runs_on(trial, pids)] for raylet, pids in there.items()}
    raylet = draw.choice([node for node in hit if hit[node]] or list(hit))
    killed = time.time()
    if whole:
        scene.cluster.remove_node(nodes[raylet], allow_graceful=False)
    else:
        os.kill(raylet, signal.SIGKILL)
    try:
        return _time(scene, hit[raylet], there[raylet], killed)
    finally:
        if not whole:
            with contextlib.suppress(Exception):  # what is left of it
                scene.cluster.remove_node(nodes[raylet], allow_graceful=False)
        scene.add_node()


def _time(scene: Scene, hit: Sequence[Any], dead: set[int], killed: float) -> float:
    """Return the seconds from `killed` until all `hit` have reported without the `dead`; NaN where all had ended.

    The times of reports are those of the processes that made them, on the same clock. Those that are dead may have
    lived on for a moment without their node.
    """
    first: dict[int, float] = {}

    def all_go_on(trials: dict[int, Any], _: int) -> bool:
        with scene.open() as experiment:
            for trial in hit:
                for row in experiment.reports(trial.trial, trial.step):
                    if row.time > killed and not dead & {row.metrics["by"], row.metrics["other"]}:
                        first.setdefault(trial.trial, row.time - killed)
        ended = [t.trial for t in hit if trials[t.trial].status in ("COMPLETED", "STOPPED", "PAUSED", "FAILED")]
        return {trial.trial for trial in hit} <= {*first, *ended}

    scene.until("trials " + ", ".join(str(trial.trial) for trial in hit), all_go_on)
    return max(first.values(), default=math.nan)


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _workers(raylet: int) -> set[int]:
    """Return the processes that a node runs for trials, or has ready for them."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return {pid for pid in pids if _parent(pid) == raylet and _title(pid).startswith("ray::")}


def _runs_on(trial: Any, pids: set[int]) -> bool:
    return trial.status == "RUNNING" and bool(pids & {_pid(trial.worker), trial.metrics.get("other")})


def _pid(worker: str) -> int:
    return int(worker.rpartition(":")[2] or 0)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""
