"""Runs the platform for long, with faults, and looks whether what must always hold has held.

- schedules: many short experiments on the virtual clock over all schedulers, each with faults, persons and nodes that
  come and go as its seed says; each twentieth is cut after a row and gone on with. All invariants of the design page
  are checked. Progress is kept in a file, so that hours of it can be had in pieces.
- simulated: one search of 100,000 trials on 10,000 virtual workers that raise, die and hang, with its store on disk;
  its driver is killed by SIGKILL some times, and another goes on. Then the log is read as `doctor` reads it.
- ray: 20,000 trials through 64 workers of 0.03 CPU each, on four nodes of Ray on this machine, some of which raise or
  die; the memory of the driver is looked at all along.

    python -m benchmarks.soak
    python -m benchmarks.soak --quick --json
    python -m benchmarks.soak --parts schedules --schedules 1000000 --work soak.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

if TYPE_CHECKING:
    from tune_platform.engine.view import RunView
    from tune_platform.protocol.scheduler import Scheduler

PARTS = ("schedules", "simulated", "ray")
#: Schedules after which progress is written.
EVERY = 500
STEPS = 9
Say = Callable[[str], None]


class Sizes(NamedTuple):
    """How much is run: schedules; trials, workers and kills of the simulated search; trials and workers on Ray."""

    schedules: int = 1_000_000
    trials: int = 100_000
    workers: int = 10_000
    kills: int = 5
    ray_trials: int = 20_000
    ray_workers: int = 64


QUICK = Sizes(schedules=300, trials=3_000, workers=300, kills=1, ray_trials=300, ray_workers=8)


# ------------------------------------------------------------------------------------------------ schedules


def schedules(count: int, work: Path | None, say: Say) -> dict[str, Any]:
    """Run the schedules of the seeds below `count` that were not run before; return how many were, and what was found.

    `work`: the file of progress; without one nothing is kept.
    """
    from tests.tune_platform.engine.test_family import KINDS
    from tune_platform.engine import runner

    known: dict[str, Any] = {"next": 0, "found": []}
    if work is not None and work.exists():
        known = json.loads(work.read_text())
    found: list[list[Any]] = known["found"]
    begin: int = known["next"]
    for seed in range(begin, count):
        kind = KINDS[seed % len(KINDS)]
        try:
            # Else virtual runs depend on the wall clock, and wait a moment where only a person can move them on.
            with mock.patch.object(runner, "INBOX_PERIOD", 0.0), mock.patch.object(time, "sleep"):
                play(kind, seed, cut=seed // len(KINDS) % 20 == 0)
        except Exception as error:  # each is a finding
            found.append([kind, seed, f"{type(error).__name__}: {error}"[:500]])
            say(f"schedules: {kind}, seed {seed}: {found[-1][2]}")
        if work is not None and ((seed + 1) % EVERY == 0 or seed + 1 == count):
            draft = work.with_name(f"{work.name}.new")
            draft.write_text(json.dumps({"next": seed + 1, "found": found}))
            draft.replace(work)
            say(f"schedules: {seed + 1} of {count}, {len(found)} found")
    return {"schedules": max(begin, count), "schedules_now": max(0, count - begin), "found": found}


def play(kind: str, seed: int, *, cut: bool) -> None:
    """Run one schedule. Raises AssertionError, or whatever the platform raises, where something does not hold."""
    from tests.tune_platform.engine.test_family import ended, scenario
    from tests.tune_platform.engine.test_invariants import check_cut

    one = scenario(kind, seed, trials=4)
    whole = one.run()
    ended(whole)
    if cut:
        check_cut(one, whole, random.Random(seed).randint(0, len(whole.log.rows)))


# ------------------------------------------------------------------------------------------------ the simulated search


def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    """Return a loss that falls to that of the config."""
    return {"loss": config["x"] + 1.0 / step} if step <= STEPS else None


def asha() -> Scheduler:
    """Return the scheduler of both searches."""
    from tune_platform.schedulers import ASHA

    return ASHA(min=1, max=STEPS, eta=3)


def drive_simulated(storage: str, trials: int, workers: int) -> None:
    """Run the search, or go on with it; what a driver's process does."""
    from tune_platform import Budget, SearchSpec, run, uniform
    from tune_platform.backends.simulated import Faults, SimulatedBackend

    faults = Faults(exception=0.002, worker_died=0.004, nan=0.001, hang=0.001)
    backend = SimulatedBackend(curve, workers=workers, faults=faults)
    run(SearchSpec(
        name="soak", trainable=_never, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", num_samples=trials,
        scheduler=asha(), searcher="random", backend=backend, storage=storage, if_exists="resume", progress="off",
        seed=11, step_timeout=60.0, retries={"exception": 1}, budget=Budget(failures=trials),
    ))  # fmt: skip


def _never(config: dict[str, Any]) -> None:
    raise AssertionError("training is simulated")


def simulated(trials: int, workers: int, kills: int, say: Say) -> dict[str, Any]:
    """Run the search with its driver killed so often; return what is wrong, and how long it took."""
    began, draw, killed = time.monotonic(), random.Random(trials), 0
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        # At random places of the log, in the order in which they come: a trial has some eight rows.
        points = sorted(draw.randint(1, 6 * trials) for _ in range(kills))
        code = 1
        while code:
            words = [sys.executable, "-m", "benchmarks.soak", "--drive-simulated", folder, str(trials), str(workers)]
            driver = subprocess.Popen(words)
            code = _kill_or_wait(driver, folder, points[killed] if killed < kills else None)
            if code == -9:
                killed += 1
                say(f"simulated: driver killed {killed} times")
            elif code:
                return {"simulated_wrong": [f"the driver ended with {code}"], "simulated_kills": killed}
        wrong = _wrong(folder, trials)
        size = (Path(folder) / "soak" / "experiment.db").stat().st_size
    return {
        "simulated_trials": trials, "simulated_workers": workers, "simulated_kills": killed, "simulated_wrong": wrong,
        "simulated_s": round(time.monotonic() - began, 1), "simulated_store_mb": round(size / 2**20),
    }  # fmt: skip


def _kill_or_wait(driver: subprocess.Popen[bytes], storage: str, at: int | None) -> int:
    """Wait until the driver has ended, or kill it once the log has so many rows; return its code."""
    from tune_platform.errors import ExperimentError
    from tune_platform.store.sql import open_store

    while at is not None:
        try:
            return driver.wait(0.2)
        except subprocess.TimeoutExpired:
            pass
        try:
            with open_store(storage) as store, store.open("soak", readonly=True) as experiment:
                if experiment.last_seq() >= at:
                    driver.kill()
                    break
        except ExperimentError:
            pass  # not made yet
    return driver.wait()


def _wrong(storage: str, trials: int) -> list[str]:
    """Return what is wrong with a search that is over: its log, its reports, its trials."""
    from tune_platform.api import check_up
    from tune_platform.store.sql import open_store

    found = list(check_up("soak", storage=storage))
    with open_store(storage) as store, store.open("soak", readonly=True) as experiment:
        numbers = [trial.trial for trial in experiment.trials()]
        living = [t.trial for t in experiment.trials() if t.status not in ("COMPLETED", "STOPPED", "FAILED")]
        last: dict[int, int] = {}
        for report in experiment.reports():
            if report.step != last.get(report.trial, 0) + 1:
                found.append(f"trial {report.trial}: report {report.step} follows on {last.get(report.trial, 0)}")
            last[report.trial] = report.step
    if sorted(numbers) != list(range(trials)):
        found.append(f"{len(numbers)} trials instead of {trials}")
    return found + [f"trial {number} has not ended" for number in living[:20]]


# ------------------------------------------------------------------------------------------------ on Ray


def train(config: dict[str, Any]) -> None:
    """Report a curve; one of a hundred raises, one of a thousand loses its process."""
    from tune_platform import report

    for step in range(1, STEPS + 1):
        if step == 2 and config["luck"] < 0.01:
            if config["luck"] < 0.001:
                os._exit(3)
            raise RuntimeError("bad luck")
        report({"loss": config["x"] + 1.0 / step})


def drive_ray(storage: str, trials: int, workers: int, address: str) -> None:
    """Run the search on a cluster, and print the memory of this process in MB at each twentieth of the trials."""
    from tune_platform import Budget, Resources, SearchSpec, run, uniform
    from tune_platform.backends.ray import RayBackend

    memory: list[tuple[int, float]] = []

    def listener(view: RunView, events: Sequence[Any], effects: Sequence[Any]) -> None:
        ended = sum(view.counts.get(status, 0) for status in ("COMPLETED", "STOPPED", "FAILED"))
        if ended >= len(memory) * trials / 20:
            memory.append((ended, _memory()))

    run(
        SearchSpec(
            name="soak", trainable=train, param_space={"x": uniform(0, 1), "luck": uniform(0, 1)}, metric="loss",
            mode="min", num_samples=trials, scheduler=asha(), searcher="random", resources=Resources(cpu=0.03),
            max_concurrent=workers, backend=RayBackend(address), storage=storage, progress="off", seed=11,
            budget=Budget(failures=trials), retries={"worker_died": 1},
        ),
        listeners=[listener],
    )  # fmt: skip
    print(json.dumps(memory))


def _memory() -> float:
    """Return the MB that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def on_ray(trials: int, workers: int, say: Say) -> dict[str, Any]:
    """Run the search on four nodes; return what is wrong, and the driver's memory."""
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(4):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        say(f"ray: four nodes are up; {trials} trials by {workers} workers")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
            words = ["--drive-ray", folder, str(trials), str(workers), cluster.address]
            env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.soak", *words], env=env, capture_output=True, text=True, check=False
            )
            if done.returncode:
                return {"ray_wrong": [f"the driver ended with {done.returncode}: {done.stderr[-2000:]}"]}
            wrong = _wrong(folder, trials)
    finally:
        cluster.shutdown()
    memory = [(count, size) for count, size in json.loads(done.stdout.splitlines()[-1]) if count >= trials / 5]
    slope = statistics.linear_regression(*zip(*memory, strict=True)).slope if len(memory) > 1 else float("nan")
    return {
        "ray_trials": trials, "ray_workers": workers, "ray_wrong": wrong,
        "ray_s": round(time.monotonic() - began, 1), "driver_mb": [round(size, 1) for _, size in memory],
        "driver_mb_per_1000_trials": round(slope * 1000, 3),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ command


def measure(sizes: Sizes, parts: Sequence[str], work: Path | None, say: Say) -> dict[str, Any]:
    """Run the parts; return all of what they return, and `violations`: how many things were wrong."""
    found: dict[str, Any] = {}
    if "schedules" in parts:
        found |= schedules(sizes.schedules, work, say)
    if "simulated" in parts:
        found |= simulated(sizes.trials, sizes.workers, sizes.kills, say)
    if "ray" in parts:
        found |= on_ray(sizes.ray_trials, sizes.ray_workers, say)
    wrong = sum(len(found.get(key, ())) for key in ("found", "simulated_wrong", "ray_wrong"))
    return {"violations": wrong, **found}


def main() -> None:
    """Run it and print what was found; exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute of it")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    for name, usual in Sizes()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"[default: {usual}]")
    parser.add_argument("--work", type=Path, metavar="FILE", help="progress of the schedules: they go on from there")
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    parser.add_argument("--drive-simulated", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--drive-ray", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive_simulated:
        storage, trials, workers = args.drive_simulated
        drive_simulated(storage, int(trials), int(workers))
        return
    if args.drive_ray:
        storage, trials, workers, address = args.drive_ray
        drive_ray(storage, int(trials), int(workers), address)
        return
    parts = args.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(PARTS)}")
    given = {name: getattr(args, name) for name in Sizes._fields if getattr(args, name) is not None}
    sizes = (QUICK if args.quick else Sizes())._replace(**given)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, each process of Ray compiles all that it imports
    # What the drivers of thousands of made-up searches have to say of nodes and trials is no news.
    logging.getLogger("tune_platform").setLevel(logging.CRITICAL)
    found = measure(sizes, parts, args.work, lambda text: print(text, file=sys.stderr, flush=True))
    if args.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key}: {value}")
    sys.exit(1 if found["violations"] else 0)


if __name__ == "__main__":
    main()
