"""A cluster of three nodes, a search on it, and its driver."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from tune_platform.store.sql import SqlExperiment

NODES = 3
#: Seconds after which a search does not go on any more: many, as a gang's processes take a minute to import torch where
#: twenty others want the same core.
PATIENCE_S = 240.0
#: Attempts to start a node: Ray gives one up that is not up within 30 s, as on a machine that has much to do.
STARTS = 3


class Scene:
    """A cluster of three nodes, a search on it, and its driver."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.storage = name, str(folder / "results")
        self._log, self._folder, self._clusters = folder / f"{name}.log", folder, 0
        self.cluster: Any = None
        self.driver: subprocess.Popen[bytes] | None = None
        self.begin()

    def begin(self) -> None:
        """Start the cluster, a new one where there was one, and a driver."""
        from ray.cluster_utils import Cluster

        if self.cluster is not None:
            self.cluster.shutdown()
        self.cluster = Cluster()
        self.add_node(num_cpus=0, include_dashboard=False)
        for _ in range(NODES):
            self.add_node()
        self.cluster.wait_for_nodes()
        self.start_driver()

    def add_node(self, num_cpus: int = 2, **arguments: Any) -> None:
        """Start a node; the first one is the head."""
        for left in reversed(range(STARTS)):
            self._clusters += self.cluster.head_node is None
            try:
                with self.environment():
                    self.cluster.add_node(num_cpus=num_cpus, **arguments)
                return
            except Exception:
                if not left:
                    raise

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
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
        words = [sys.executable, "-m", "benchmarks.faults", "--drive", self.name, self.cluster.address, self.storage]
        env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        env["RAY_TMPDIR"] = str(self._folder)
        with self._log.open("a") as log:
            self.driver = subprocess.Popen(words, env=env, stdout=log, stderr=subprocess.STDOUT)

    def revive(self) -> None:
        """Start a driver where there is none any more."""
        if self.driver is None or self.driver.poll() is not None:
            self.start_driver()

    def abandon(self) -> None:
        """End what is left of it."""
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()
        with contextlib.suppress(Exception):
            self.cluster.shutdown()

    def look(self) -> tuple[dict[int, Any], int]:
        """Return the trials of the store by number, and how many reports there are."""
        with self.open() as experiment:
            trials = {trial.trial: trial for trial in experiment.trials()}
        return trials, sum(trial.step for trial in trials.values())

    @contextlib.contextmanager
    def open(self) -> Iterator[SqlExperiment]:
        """Give the experiment, to be read."""
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
            if driven and self.driver is not None and self.driver.poll() is not None:
                raise RuntimeError(f"the driver ended while it was waited for {what}: {self.said()}")
            time.sleep(0.1)
        raise RuntimeError(f"{what} did not come within {PATIENCE_S:g} s: {self.said()}")

    def said(self) -> str:
        """Return the end of what drivers have printed."""
        return self._log.read_text()[-2000:] if self._log.exists() else ""

    def end(self) -> list[str]:
        """Stop the search and its cluster; return what went wrong with that."""
        from tune_platform.store.sql import open_store

        assert self.driver is not None
        with open_store(self.storage) as store, store.open(self.name) as experiment:
            experiment.request("cancel", None, {}, time.time())
        try:
            code = self.driver.wait(60)
            found = [] if code in (0, 1) else [f"the driver ended with {code}: {self.said()}"]
        except subprocess.TimeoutExpired:
            self.driver.kill()
            found = ["the driver did not end when it was told to"]
        trials, _ = self.look()
        left = [number for number, trial in trials.items() if trial.status in ("STARTING", "RUNNING", "PAUSING")]
        self.cluster.shutdown()
        return found + [f"trial {number} has not ended" for number in left]
