"""Kills parts of a running search, and looks whether the store holds what it should after each, and how long it took.

Three nodes of Ray on this machine run a search that has no end of its own; drivers, workers, raylets and nodes are
processes that are killed by SIGKILL at random moments:

- driver: another one takes over at once;
- worker: the process of a trial; rank: one of a gang's that does not speak for it;
- raylet, node: with all that runs there; another node takes its place;
- gcs: the head for good, so that the cluster is lost: the driver has to end by itself and say so, and another one goes
  on in a new cluster;
- gcs_back: the head, which is back after some seconds with what its store has kept (Ray's own RocksDB): the same driver
  has to go on.

After each kill the log is read as `doctor` reads it, and each trial's reports have to be 1, 2, 3 ... and follow from
one another, across checkpoints and attempts; at the end no trial may have failed and all must have ended. The recovery
is the time until those that were hit have reported again (driver, gcs: until anybody has). A kill that hit only trials
which had just ended counts as one, and has no such time.

The long form takes hours. With `--work FILE` each kill is a line of that file, and those that it has are not made
again; `--minutes` makes a piece of it, and `--searches` of one search alone.

    python -m benchmarks.faults
    python -m benchmarks.faults --quick --json
    python -m benchmarks.faults --work docs/figures/faults.jsonl --minutes 5
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.report import Table
from tune_platform.trainable import Trainable

if TYPE_CHECKING:
    from tune_platform.store.sql import SqlExperiment

STEPS, PAUSE_S, NODES, PLACES = 30, 0.15, 3, 4
#: Seconds within which a search has to go on.
PATIENCE_S = 90.0
#: Minutes for the short form: kills that have not begun by then are left out, and said.
QUICK_MINUTES = 7.0
KINDS = ("driver", "worker", "raylet", "node", "rank", "gcs", "gcs_back")
#: Those of the head are fewer.
HEADS = ("gcs", "gcs_back")
#: Seconds for which the head is away at least and at most, where it comes back.
AWAY_S = (1.0, 15.0)
#: Which search is running while it is killed, in turn.
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "asha": {"scheduler": {"name": "asha", "min": 3, "max": STEPS, "eta": 3}, "num_samples": 100_000},
    "pbt": {"scheduler": {"name": "pbt", "interval": 5, "max": 10_000}, "num_samples": PLACES},
    "gang": {"scheduler": "fifo", "num_samples": 100_000},
}


class Walk(Trainable):
    """Each value follows from the one before, so that a report which is lost, doubled or from elsewhere is seen."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin at a value of the config."""
        self.now, self.value = 0, config["x"]

    def step(self) -> Mapping[str, Any] | None:
        """Go one step on."""
        if self.now == self.config["steps"]:
            return None
        time.sleep(PAUSE_S)
        self.now += 1
        self.value = follow(self.value, self.now)
        return {"loss": self.value, "trained": self.now}

    def save_checkpoint(self, directory: Path) -> None:
        """Write the step and the value."""
        (directory / "state.json").write_text(json.dumps([self.now, self.value]))

    def load_checkpoint(self, directory: Path) -> None:
        """Read them."""
        self.now, self.value = json.loads((directory / "state.json").read_text())


class Gang(Walk):
    """The same by a gang, which is filled up before each step; its processes exchange nothing, so none waits."""

    uses_gang = True

    def step(self) -> Mapping[str, Any] | None:
        """Go one step on, once the gang is complete."""
        assert self.context.gang is not None
        self.context.gang.group()
        return super().step()


def follow(value: float, step: int) -> float:
    """Return the value of a step from that of the one before."""
    return 0.9 * value + 1.0 / step


def drive(name: str, address: str, storage: str) -> None:
    """Run the search, or go on with it; what a driver's process does."""
    from tune_platform import CheckpointPolicy, Resources, SearchSpec, run, uniform
    from tune_platform.backends.ray import RayBackend

    gang, steps = name == "gang", 10**6 if name == "pbt" else STEPS
    spec = SearchSpec(
        name=name, trainable=Gang if gang else Walk, param_space={"x": uniform(0, 1), "steps": steps},
        metric="loss", mode="min", searcher="random", resources=Resources(cpu=0.5, workers=2 if gang else 1),
        max_concurrent=PLACES, checkpoint=CheckpointPolicy(every=2), if_exists="resume", storage=storage,
        progress="off", backend=RayBackend(address, refresh_s=1.0), seed=3, **SEARCHES[name],
    )  # fmt: skip
    run(spec)


class Scene:
    """A cluster of three nodes, a search on it, and its driver."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.storage = name, str(folder / "results")
        self._log, self._folder, self._clusters = folder / f"{name}.log", folder, 0
        self._cluster: Any = None
        self._driver: subprocess.Popen[bytes] | None = None
        self.begin()

    def begin(self) -> None:
        """Start the cluster, a new one where there was one, and a driver."""
        from ray.cluster_utils import Cluster

        if self._cluster is not None:
            self._cluster.shutdown()
        self._clusters += 1
        with self._environment():
            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
            for _ in range(NODES):
                self._cluster.add_node(num_cpus=2)
        self._cluster.wait_for_nodes()
        self.start_driver()

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """Set what the head and the nodes are started with; whatever Ray this process starts later has its own.

        The head keeps what it knows, and has nothing of a former cluster's. The folder is where Ray notes its address,
        which searches that name none would join.
        """
        kept = self._folder / f"head{self._clusters}"
        kept.mkdir(exist_ok=True)
        ours = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(kept), "RAY_TMPDIR": str(self._folder)}
        with mock.patch.dict(os.environ, ours):
            yield

    def start_driver(self) -> None:
        """Start a driver."""
        words = [sys.executable, "-m", "benchmarks.faults", "--drive", self.name, self._cluster.address, self.storage]
        env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        env["RAY_TMPDIR"] = str(self._folder)
        with self._log.open("a") as log:
            self._driver = subprocess.Popen(words, env=env, stdout=log, stderr=subprocess.STDOUT)

    def revive(self) -> None:
        """Start a driver where there is none any more."""
        if self._driver is None or self._driver.poll() is not None:
            self.start_driver()

    def abandon(self) -> None:
        """End what is left of it."""
        if self._driver is not None:
            self._driver.kill()
            self._driver.wait()
        with contextlib.suppress(Exception):
            self._cluster.shutdown()

    def look(self) -> tuple[dict[int, Any], int]:
        """Return the trials of the store by number, and how many reports there are."""
        with self._open() as experiment:
            trials = {trial.trial: trial for trial in experiment.trials()}
        return trials, sum(trial.step for trial in trials.values())

    @contextlib.contextmanager
    def _open(self) -> Iterator[SqlExperiment]:
        from tune_platform.store.sql import open_store

        with open_store(self.storage) as store, store.open(self.name, readonly=True) as experiment:
            yield experiment

    def until(self, what: str, happened: Callable[[dict[int, Any], int], bool], *, driven: bool = True) -> float:
        """Wait until the store tells of it; return the seconds that it took."""
        from tune_platform.errors import ExperimentError

        began = time.monotonic()
        while time.monotonic() - began < PATIENCE_S:
            with contextlib.suppress(ExperimentError):  # not made yet
                if happened(*self.look()):
                    return time.monotonic() - began
            if driven and self._driver is not None and self._driver.poll() is not None:
                raise RuntimeError(f"the driver ended while it was waited for {what}: {self.said()}")
            time.sleep(0.1)
        raise RuntimeError(f"{what} did not come within {PATIENCE_S:g} s: {self.said()}")

    def said(self) -> str:
        """Return the end of what drivers have printed."""
        return self._log.read_text()[-2000:] if self._log.exists() else ""

    # ------------------------------------------------------------------------------- kills

    def kill(self, kind: str, draw: random.Random) -> float:
        """Kill one of that kind at a random moment; return the seconds until the search goes on."""
        _, before = self.look()
        self.until("reports", lambda _, count: count >= before + PLACES)
        time.sleep(draw.uniform(0.0, 2.0))
        match kind:
            case "driver":
                return self._kill_driver()
            case "gcs":
                return self._kill_head()
            case "gcs_back":
                return self._bring_head_back(draw)
            case "worker" | "rank":
                return self._kill_worker(draw, rank=kind == "rank")
            case _:
                return self._kill_node(draw, whole=kind == "node")

    def _kill_driver(self) -> float:
        assert self._driver is not None
        self._driver.kill()
        self._driver.wait()
        _, before = self.look()
        began = time.monotonic()
        self.start_driver()
        self.until("reports", lambda _, count: count > before)
        return time.monotonic() - began

    def _kill_head(self) -> float:
        assert self._driver is not None
        head = self._cluster.head_node
        began = time.monotonic()
        head.kill_gcs_server(check_alive=False)
        try:
            code = self._driver.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            raise RuntimeError(f"the driver did not end {PATIENCE_S:g} s after its head node had died") from None
        if code == 0 or "gone" not in self.said():
            raise RuntimeError(f"the driver ended with {code} and without the reason: {self.said()}")
        _, before = self.look()
        self.begin()
        self.until("reports", lambda _, count: count > before)
        return time.monotonic() - began

    def _bring_head_back(self, draw: random.Random) -> float:
        head = self._cluster.head_node
        head.kill_gcs_server(check_alive=False)
        time.sleep(draw.uniform(*AWAY_S))
        with self._environment():
            head.start_gcs_server()
        began = time.time()

        def one_was_launched(trials: dict[int, Any], _: int) -> bool:
            # What ran has gone on without the head: that all is well again a new launch shows.
            with self._open() as experiment:
                later = [row for row, _ in experiment.read_log() if row.kind == "launched" and row.time > began]
                return any(trials[row.trial].step > 0 for row in later if row.trial in trials)

        if self.name == "pbt":  # there nothing is launched but what has failed
            _, before = self.look()
            self.until("reports", lambda _, count: count > before + PLACES)
        else:
            self.until("a launch", one_was_launched)
        return time.time() - began

    def _kill_worker(self, draw: random.Random, *, rank: bool) -> float:
        running: list[Any] = []

        def some_run(trials: dict[int, Any], _: int) -> bool:
            running[:] = [one for one in trials.values() if one.status == "RUNNING" and _alive(one.worker)]
            return bool(running)

        self.until("a trial that runs", some_run)
        victim = draw.choice(running)
        pids = [_pid(victim.worker)]
        if rank:
            speakers = {_pid(trial.worker) for trial in running}
            pids = [pid for pid in self._workers() if pid not in speakers and "Member" in _title(pid)]
        killed = time.time()
        os.kill(draw.choice(pids), signal.SIGKILL)
        hit = running if rank else [victim]  # whose rank it was is not known here: all have to go on
        return self._time(hit, killed, anew=not rank)

    def _time(self, hit: Sequence[Any], killed: float, *, anew: bool = True) -> float:
        """Return the seconds until all of these have reported since they were `killed`; NaN where all had ended.

        `anew`: by another attempt, as a process may live on for a moment without its node; else three times. The times
        of reports are those of the processes that made them, on the same clock.
        """
        first: dict[int, float] = {}

        def all_go_on(trials: dict[int, Any], _: int) -> bool:
            with self._open() as experiment:
                for trial in hit:
                    launches = [row for row in experiment.history(trial.trial) if row.kind == "launched"]
                    again = [row.time for row in launches if row.data["attempt"] > trial.attempt]
                    since = killed if not anew else min(again, default=math.inf)
                    later = [row.time for row in experiment.reports(trial.trial, trial.step) if row.time > since]
                    # A gang that is short of one ends its present step, and wants it back at the next.
                    wanted = 1 if anew else 3
                    if len(later) >= wanted:
                        first.setdefault(trial.trial, sorted(later)[wanted - 1] - killed)
            ended = [t.trial for t in hit if trials[t.trial].status in ("COMPLETED", "STOPPED", "PAUSED", "FAILED")]
            return {trial.trial for trial in hit} <= {*first, *ended}

        self.until("trials " + ", ".join(str(trial.trial) for trial in hit), all_go_on)
        return max(first.values(), default=math.nan)

    def _kill_node(self, draw: random.Random, *, whole: bool) -> float:
        trials, _ = self.look()
        nodes = {self._raylet(node): node for node in self._cluster.worker_nodes}
        on = {
            node: [t for t in trials.values() if t.status == "RUNNING" and _parent(_pid(t.worker)) == node]
            for node in nodes
        }
        raylet = draw.choice([node for node in on if on[node]] or list(on))
        killed = time.time()
        if whole:
            self._cluster.remove_node(nodes[raylet], allow_graceful=False)
        else:
            os.kill(raylet, signal.SIGKILL)
        taken = self._time(on[raylet], killed)
        if not whole:
            with contextlib.suppress(Exception):  # what is left of it
                self._cluster.remove_node(nodes[raylet], allow_graceful=False)
        with self._environment():
            self._cluster.add_node(num_cpus=2)
        return taken

    @staticmethod
    def _raylet(node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def _workers(self) -> list[int]:
        nodes = {self._raylet(node) for node in self._cluster.worker_nodes}
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if _parent(pid) in nodes and _title(pid).startswith("ray::")]

    # ------------------------------------------------------------------------------- what must hold

    def violations(self) -> list[str]:
        """Return what is wrong with the store, a line each."""
        from tune_platform.api import check_up

        found = check_up(self.name, storage=self.storage)
        with self._open() as experiment, experiment.frozen():
            configs = {trial.trial: trial.config for trial in experiment.trials()}
            last: dict[int, tuple[int, float, int]] = {}
            for report in experiment.reports():
                step, value, trained = last.get(report.trial, (0, configs[report.trial]["x"], 0))
                if report.step != step + 1:
                    found.append(f"trial {report.trial}: report {report.step} follows on {step}")
                # A clone goes on from another's weights: there the steps alone are known.
                now, mine = report.metrics["trained"], report.metrics["loss"]
                if self.name != "pbt" and (now != trained + 1 or abs(mine - follow(value, now)) > 1e-12):
                    found.append(f"trial {report.trial}: report {report.step} does not follow from the one before")
                last[report.trial] = report.step, mine, now
            failed = [trial.trial for trial in experiment.trials(status="FAILED")]
        return found + [f"trial {number} failed, by no fault of its own" for number in failed]

    def end(self) -> list[str]:
        """Stop the search and its cluster; return what is wrong then."""
        from tune_platform.store.sql import open_store

        assert self._driver is not None
        with open_store(self.storage) as store, store.open(self.name) as experiment:
            experiment.request("cancel", None, {}, time.time())
        try:
            code = self._driver.wait(60)
            found = [] if code in (0, 1) else [f"the driver ended with {code}: {self.said()}"]
        except subprocess.TimeoutExpired:
            self._driver.kill()
            found = ["the driver did not end when it was told to"]
        trials, _ = self.look()
        left = [number for number, trial in trials.items() if trial.status in ("STARTING", "RUNNING", "PAUSING")]
        self._cluster.shutdown()
        return found + self.violations() + [f"trial {number} has not ended" for number in left]


def _pid(worker: str) -> int:
    return int(worker.rpartition(":")[2] or 0)


def _alive(worker: str) -> bool:
    return bool(worker) and Path(f"/proc/{_pid(worker)}").exists()


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


class Record:
    """What was made and found: a line for each kill and for each end of a search, in a file where there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.lines: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, search: str, kind: str, seconds: float | None, wrong: Sequence[str]) -> None:
        """Note one; `seconds` is None where nobody had to go on."""
        rounded = None if seconds is None or math.isnan(seconds) else round(seconds, 2)
        self.lines.append({"search": search, "kind": kind, "seconds": rounded, "wrong": list(wrong)})
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(self.lines[-1]) + "\n")

    def count(self, search: str, kind: str) -> int:
        """Return how many there are of a kind, of one search."""
        return sum((line["search"], line["kind"]) == (search, kind) for line in self.lines)

    def summary(self, kinds: Iterable[str]) -> dict[str, Any]:
        """Return how many kills there were, what was wrong, and how long it took."""
        by_kind = {kind: [line for line in self.lines if line["kind"] == kind] for kind in kinds}
        seconds = {
            kind: [one["seconds"] for one in made if one["seconds"] is not None] for kind, made in by_kind.items()
        }
        every = sorted(one for times in seconds.values() for one in times)
        wrong = [f"{line['search']}, {line['kind']}: {each}" for line in self.lines for each in line["wrong"]]
        return {
            "kills": sum(map(len, by_kind.values())),
            "violations": len(wrong),
            "recovery_median_s": _quantile(every, 0.5),
            "recovery_p95_s": _quantile(every, 0.95),
            "kills_by_kind": {kind: len(made) for kind, made in by_kind.items()},
            "by_kind": seconds,
            "what": wrong,
        }


def _quantile(ordered: Sequence[float], part: float) -> float | None:
    return round(ordered[int(part * (len(ordered) - 1))], 2) if ordered else None


def measure(
    kills: Mapping[str, int],
    seed: int,
    say: Callable[[str], None],
    seconds_left: float = math.inf,
    record: Record | None = None,
    searches: Sequence[str] = (),
) -> dict[str, Any]:
    """Make so many kills of each kind, in these searches (none: all); return how many there were, and what was wrong.

    Those that the record has are not made again. What has not begun after `seconds_left`, of which each search has its
    part, is left out.
    """
    record = record or Record(None)
    until = time.monotonic() + seconds_left
    left_out = 0
    draw = random.Random(f"{seed} {len(record.lines)}")
    names = searches or list(SEARCHES)
    for number, name in enumerate(names):
        now = time.monotonic()
        over = now + (until - now) / (len(names) - number)
        todo = [
            kind for kind, count in kills.items() for _ in range(_part(kind, name, count) - record.count(name, kind))
        ]
        draw.shuffle(todo)
        if not todo:
            continue
        with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
            scene: Scene | None = None
            try:
                scene = Scene(name, Path(folder))
                scene.until("trials", lambda _, count: count > 0)
                for place, kind in enumerate(todo):
                    if time.monotonic() >= over:
                        left_out += len(todo) - place
                        say(f"{name}: {len(todo) - place} kills are left out: the time is up")
                        break
                    _one(scene, kind, draw, record, say)
                record.add(name, "end", None, scene.end())
            except Exception as error:
                record.add(name, "end", None, [f"{type(error).__name__}: {error}"])
                if scene is not None:
                    scene.abandon()
    return {**record.summary(kills), "left_out": left_out}


def _one(scene: Scene, kind: str, draw: random.Random, record: Record, say: Callable[[str], None]) -> None:
    """Make one kill, and note what came of it."""
    try:
        seconds = scene.kill(kind, draw)
        record.add(scene.name, kind, seconds, scene.violations())
        say(f"{scene.name}: {kind} killed, goes on after {seconds:.1f} s")
    except Exception as error:
        record.add(scene.name, kind, None, [f"{type(error).__name__}: {error}"])
        say(f"{scene.name}: {kind}: {record.lines[-1]['wrong'][0]}")
        scene.revive()  # the next kill needs a search to hit


def _part(kind: str, name: str, count: int) -> int:
    """Ranks are killed in gangs alone; of the others each search has its part, the first ones what is left over."""
    if kind == "rank":
        return count if name == "gang" else 0
    place = list(SEARCHES).index(name)
    return count // len(SEARCHES) + (place < count % len(SEARCHES))


def _kinds(text: str) -> Sequence[str]:
    return _some(text, KINDS)


def _searches(text: str) -> Sequence[str]:
    return _some(text, tuple(SEARCHES))


def _some(text: str, known: Sequence[str]) -> Sequence[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def main() -> None:
    """Run it and print the table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="5 kills of each kind, two of the head, as far as that takes 7 minutes"
    )
    parser.add_argument("--kills", type=int, help="of each kind  [default: 100, and of the head 10 and 10]")
    parser.add_argument("--minutes", type=float, help="what has not begun by then is left out")
    parser.add_argument("--work", type=Path, metavar="FILE", help="the kills so far: these are not made again")
    parser.add_argument("--searches", type=_searches, default=tuple(SEARCHES), help=f"some of {','.join(SEARCHES)}")
    parser.add_argument("--kinds", type=_kinds, default=KINDS, help=f"some of {','.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    parser.add_argument("--drive", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        drive(*args.drive)
        return
    usual = args.kills or (5 if args.quick else 100)
    kills = {kind: (1 if args.quick else min(usual, 10)) if kind in HEADS else usual for kind in args.kinds}
    minutes = args.minutes or (QUICK_MINUTES if args.quick else math.inf)
    found = measure(kills, args.seed, lambda text: print(text, file=sys.stderr, flush=True), 60 * minutes,
                    Record(args.work), args.searches)  # fmt: skip
    if args.json:
        print(json.dumps(found))
        return
    table = Table("killed", "times", "median s", "p95 s", "longest s")
    for kind, count in found["kills_by_kind"].items():
        times = sorted(found["by_kind"][kind])
        said = [f"{_quantile(times, part):.1f}" for part in (0.5, 0.95, 1.0)] if times else ["", "", ""]
        table.add(kind, count, *said)
    table.print()
    print(f"{found['kills']} kills, {found['violations']} violations, {found['left_out']} kills left out")
    for line in found["what"]:
        print(f"  {line}")


if __name__ == "__main__":
    main()
