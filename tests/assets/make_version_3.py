"""Writes the experiments in `version_3/`, as the release with schema version 3 left them when it was killed.

Run once, with that release (commit ac0f7a2): `python -m tests.assets.make_version_3`. Kept as the record of how they
were made; it does not run with later releases.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from tests.support import TinyPBT
from tune_platform import ASHA, FIFO, SearchSpec, choice, run, uniform

HERE = Path(__file__).parent / "version_3"
CURVE = "tests.assets.old_search:Curve"


class Killed(BaseException):
    """Ends the driver as a kill would: nothing is written after it."""


def make(name: str, rows: int, requests: Any = (), **options: Any) -> None:
    """Run a search until its log has `rows` rows, and keep what lies on the disk then."""
    from tune_platform.store.sql import open_store

    with tempfile.TemporaryDirectory() as storage:
        values: dict[str, Any] = {
            "name": name, "trainable": CURVE, "metric": "loss", "mode": "min", "storage": storage,
            "param_space": {"x": uniform(0, 1), "fails": choice([False, False, False, False, True])},
            "backend": {"name": "inline"}, "seed": 5,
            "retries": {"exception": 1},
        }  # fmt: skip
        spec = SearchSpec(**values | options)
        todo = list(requests)

        def listener(controller: Any, events: Any, commands: Any) -> None:
            with open_store(storage) as store, store.open(name, readonly=True) as experiment:
                seq = experiment.last_seq()
            while todo and todo[0][0] <= seq:
                _, action, trial, data = todo.pop(0)
                with open_store(storage) as store, store.open(name) as experiment:
                    experiment.request(action, trial, data)
            if seq >= rows:
                target = HERE / name
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                source = sqlite3.connect(Path(storage, name, "experiment.db"))
                copy = sqlite3.connect(target / "experiment.db")
                source.backup(copy)
                copy.execute("UPDATE experiments SET heartbeat = 0, driver = 'gone:1'")
                copy.commit()
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("VACUUM")
                copy.close()
                source.close()
                if Path(storage, name, "checkpoints").exists():
                    shutil.copytree(Path(storage, name, "checkpoints"), target / "checkpoints")
                raise Killed

        try:
            former: Any = listener  # what a listener was then
            run(spec, listeners=[former])
        except Killed:
            return
        raise AssertionError(f"{name} ended before row {rows}")


if __name__ == "__main__":
    from tune_platform.backends.inline import InlineBackend
    from tune_platform.engine import runner

    runner.INBOX_PERIOD = 0.0  # persons are heard at once

    make("fifo", 60, scheduler=FIFO(), num_samples=20, backend=InlineBackend(num_cpus=2), checkpoint={"every": 2})
    make("stopping", 70, scheduler=ASHA(min=1, max=9, eta=3), searcher={"name": "tpe", "n_startup_trials": 3},
         num_samples=30, backend=InlineBackend(num_cpus=2))  # fmt: skip
    make("promotion", 90, scheduler=ASHA(min=1, max=9, eta=2, type="promotion"), num_samples=25,
         backend=InlineBackend(num_cpus=3))  # fmt: skip
    make("epochs", 80, scheduler=ASHA(resource="epoch", min=2, max=18, eta=3, type="promotion"), num_samples=25,
         searcher={"name": "tpe", "n_startup_trials": 3}, backend=InlineBackend(num_cpus=2))  # fmt: skip
    make("population", 80, scheduler=TinyPBT(interval=2), num_samples=6, backend=InlineBackend(num_cpus=6))
    make("persons", 62, scheduler=FIFO(), num_samples=12, backend=InlineBackend(num_cpus=2),
         start_points=({"x": 0.1, "fails": False}, {"x": 0.2}),
         requests=[(12, "pause", 1, {}), (16, "enqueue", None, {"config": {"x": 0.5}}), (30, "stop", 3, {}),
                   (34, "unpause", 1, {}), (40, "extend", None, {"trials": 2}), (42, "pause", 4, {})])  # fmt: skip
