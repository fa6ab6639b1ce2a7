"""Experiments whose drivers are made to be killed, and what is known of them without running them.

Workers import this module: what only a driver needs is imported where it is needed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_platform.backends import _writer
from tune_platform.backends._writer import _keep
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.trainable import Trainable

if TYPE_CHECKING:
    from tune_platform.spec import SearchSpec

STEPS = 18
#: Both kinds of ASHA have their rungs at these steps.
LEVELS, ETA = (2, 6, 18), 3
PARTS: dict[str, dict[str, Any]] = {
    "fifo-random": {"searcher": "random", "scheduler": "fifo"},
    "fifo-tpe": {"searcher": {"name": "tpe", "n_startup_trials": 3}, "scheduler": "fifo"},
    "stopping-random": {"searcher": "random", "scheduler": {"name": "asha", "min": 2, "max": STEPS, "eta": ETA}},
    "promotion-tpe": {
        "searcher": {"name": "tpe", "n_startup_trials": 3},
        "scheduler": {"name": "asha", "min": 2, "max": STEPS, "eta": ETA, "type": "promotion"},
    },
}


#: A population whose members are judged at once, so that its family tree depends on nobody's speed.
FAMILY: dict[str, Any] = {
    "searcher": "random",
    "scheduler": {"name": "pbt", "interval": 3, "quantile": 0.5, "synchronous": True, "max": STEPS},
}


def curve(x: float, last: int = STEPS) -> list[float]:
    """The losses of steps 1 to `last`; each depends on all that were before it."""
    losses, state = [], 1.0
    for step in range(1, last + 1):
        state = 0.8 * state + (x - 0.3) ** 2 / step
        losses.append(state)
    return losses


class Walk(Trainable):
    """Reports `curve(x)`, and the step that this attempt started from."""

    def setup(self, config: dict[str, Any]) -> None:
        self.now, self.start, self.state = 0, 0, 1.0

    def step(self) -> Mapping[str, Any] | None:
        if self.now == STEPS:
            return None
        time.sleep(self.config["pause"])
        self.now += 1
        self.state = 0.8 * self.state + (self.config["x"] - 0.3) ** 2 / self.now
        return {"loss": self.state, "start": self.start}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "state.json").write_text(json.dumps([self.now, self.state]))

    def load_checkpoint(self, directory: Path) -> None:
        self.now, self.state = json.loads((directory / "state.json").read_text())
        self.start = self.now


class Handed(Walk):
    """Hands its state over in memory; to take one over lasts a while, so that a kill hits it in the middle.

    `write`: seconds that its storage takes to have a checkpoint behind the training.
    """

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        if _writer._keep is _keep:

            def slowly(*args: Any) -> CheckpointRef:
                time.sleep(config["write"])
                return _keep(*args)

            setattr(_writer, "_keep", slowly)  # noqa: B010 (its type is narrower)

    def get_state(self) -> Any:
        return [self.now, self.state]

    def set_state(self, state: Any) -> None:
        time.sleep(3 * self.config["pause"])
        self.now, self.state = state
        self.start = self.now


def spec_of(
    kind: str,
    storage: str,
    *,
    pause: float = 0.03,
    trials: int = 20,
    places: int = 2,
    write: float = 0.0,
    backend: Any = "inline",
) -> SearchSpec:
    """The experiment of that kind; `pause` is the length of a step in seconds, `write` that of writing a checkpoint.

    With one place nothing depends on who is quicker: trials come one after the other, and none is suggested ahead.
    """
    from tune_platform import CheckpointPolicy, SearchSpec, uniform

    return SearchSpec(
        trainable=f"tests.tune_platform.killing:{'Handed' if kind == 'family' else 'Walk'}",
        param_space={"x": uniform(0, 1), "pause": pause, "write": write},
        metric="loss",
        mode="min",
        name=kind,
        num_samples=trials,
        resources={"cpu": 0.25},
        max_concurrent=places,
        prefetch=0 if places == 1 else None,
        checkpoint=CheckpointPolicy(every=2, keep_last=2),
        seed=11,
        storage=storage,
        backend=backend,
        **(FAMILY if kind == "family" else PARTS[kind]),
    )


def drive(kind: str, storage: str, address: str, log: str, options: dict[str, Any]) -> None:
    """Start the experiment, or go on with it where it has been started; `log` takes what is printed."""
    from tune_platform import resume, run
    from tune_platform.store.sql import open_store

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    with open_store(storage) as store:
        known = kind in store.names()
    if known:
        resume(kind, storage=storage)
    else:
        run(spec_of(kind, storage, backend={"name": "ray", "address": address}, **options))
