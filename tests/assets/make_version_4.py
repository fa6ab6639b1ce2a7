"""Writes the experiment in `version_4/`, as the release with log format 2 left it when it was killed.

Run once, with that release: `python -m tests.assets.make_version_4`. Kept as the record of how it was made. It has
promotions, failures and retries, what a person asked for, and snapshots.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tune_platform import ASHA, SearchSpec, api, choice, uniform
from tune_platform.engine import runner, snapshot
from tune_platform.engine.view import RunView
from tune_platform.store.sql import open_store

HERE = Path(__file__).parent / "version_4"
NAME = "promotion"
ROWS = 260
REQUESTS: list[tuple[int, str, int | None, dict[str, Any]]] = [
    (12, "pause", 1, {}),
    (30, "enqueue", None, {"config": {"x": 0.5}}),
    (60, "stop", 3, {}),
    (70, "unpause", 1, {}),
    (90, "extend", None, {"trials": 2}),
    (120, "pause", 4, {}),
]


class Killed(BaseException):
    """Ends the driver as a kill would: nothing is written after it."""


def keep(storage: str) -> None:
    """Keep what lies on the disk now."""
    target = HERE / NAME
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    source, copy = sqlite3.connect(Path(storage, NAME, "experiment.db")), sqlite3.connect(target / "experiment.db")
    source.backup(copy)
    copy.execute("UPDATE experiments SET heartbeat = 0, driver = 'gone:1'")
    copy.commit()
    copy.execute("PRAGMA journal_mode = DELETE")
    copy.execute("VACUUM")
    copy.close()
    source.close()
    shutil.copytree(Path(storage, NAME, "checkpoints"), target / "checkpoints")


def main() -> None:
    """Run a search until its log has ROWS rows."""
    runner.INBOX_PERIOD = 0.0  # persons are heard at once
    snapshot.EVERY = 100
    with tempfile.TemporaryDirectory() as storage:
        spec = SearchSpec(
            name=NAME,
            trainable="tests.assets.old_search:Curve",
            metric="loss",
            mode="min",
            storage=storage,
            param_space={"x": uniform(0, 1), "fails": choice([False, False, False, False, True])},
            scheduler=ASHA(min=1, max=9, eta=2, type="promotion"),
            num_samples=40,
            backend={"name": "inline", "num_cpus": 3},
            seed=5,
            retries={"exception": 1},
        )
        todo = list(REQUESTS)

        def listener(run: RunView, events: Sequence[Any], effects: Sequence[Any]) -> None:
            with open_store(storage) as store, store.open(NAME) as experiment:
                seq = experiment.last_seq()
                while todo and todo[0][0] <= seq:
                    _, action, trial, data = todo.pop(0)
                    experiment.request(action, trial, data)
            if seq >= ROWS:
                keep(storage)
                raise Killed

        try:
            api.run(spec, listeners=[listener])
        except Killed:
            return
        raise AssertionError(f"it ended before row {ROWS}")


if __name__ == "__main__":
    main()
