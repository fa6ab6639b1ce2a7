"""What a driver keeps in memory of trials that have ended: no object of any kind for each of them."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tune_platform import ASHA, SearchSpec, run, uniform
from tune_platform.backends.simulated import SimulatedBackend
from tune_platform.engine.view import RunView
from tune_platform.protocol.scheduler import Scheduler

EARLY, LATE = 300, 1200


def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    return {"loss": config["x"] + 1.0 / step} if step <= 9 else None


def train(config: dict[str, Any]) -> None:
    raise AssertionError("training is simulated")


@pytest.mark.parametrize("scheduler", ["fifo", ASHA(min=1, max=9, eta=3)], ids=["fifo", "asha"])
def test_no_object_is_kept_for_each_trial_that_has_ended(scheduler: str | Scheduler, tmp_path: Path) -> None:
    """Of what the garbage collector knows; the rungs of ASHA have a tuple of numbers each, which it lets go."""
    counts: list[Counter[str]] = []

    def look(view: RunView, events: Sequence[Any], effects: Sequence[Any]) -> None:
        ended = sum(view.counts.get(status, 0) for status in ("COMPLETED", "STOPPED", "FAILED"))
        if len(counts) < 2 and ended >= (EARLY, LATE)[len(counts)]:
            gc.collect()
            counts.append(Counter(type(each).__qualname__ for each in gc.get_objects()))

    run(
        SearchSpec(
            name="e", trainable=train, param_space={"x": uniform(0, 1)}, metric="loss", mode="min", searcher="random",
            num_samples=LATE + 50, scheduler=scheduler, backend=SimulatedBackend(curve, workers=16),
            storage=str(tmp_path), progress="off", seed=1,
        ),
        listeners=[look],
    )  # fmt: skip
    early, late = counts
    grown = {kind: late[kind] - early[kind] for kind in late if late[kind] - early[kind] > (LATE - EARLY) / 10}
    assert grown == {}
