"""Searchers that hear of running trials, through the engine: a cut after any row changes no trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import MemoryLog, Run, Scenario
from tune_platform.backends.simulated import SimulatedBackend
from tune_platform.engine.controller import Controller
from tune_platform.engine.feed import Feed
from tune_platform.engine.recovery import recover
from tune_platform.engine.runner import Runner
from tune_platform.engine.settings import Settings
from tune_platform.protocol.backend import Job
from tune_platform.registry import make_searcher
from tune_platform.space import Space, uniform

SPACE = Space({"x": uniform(0, 1)})


def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    return {"loss": (config["x"] - 0.3) ** 2 + 1 / step} if step <= 9 else None


@dataclass
class Search(Scenario):
    """A scenario with a searcher of the registry."""

    searcher: str = "bohb"

    def build(self, log: MemoryLog | None = None, *, scheduler: Any = None) -> Run:
        scheduler = scheduler or self.make_scheduler()
        searcher: Any = make_searcher(self.searcher)
        settings = Settings(metrics=("loss",), modes=("min",), num_samples=self.trials, lookahead=0, follow=True)
        controller = Controller(settings, scheduler)
        backend = SimulatedBackend(curve, workers=3)
        feed = Feed(searcher, SPACE, modes=["min"], seed=0, clock=backend.now)
        log = MemoryLog() if log is None else log
        job = Job(experiment="x", trainable=None, metrics=("loss",), resource=scheduler.resource, seed=0)
        runner = Runner(controller=controller, feed=feed, backend=backend, log=log, job=job, complete=lambda c, n: c)
        return Run(runner, controller, backend, searcher, log)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", ["stopping", "promotion"])
def test_a_cut_after_any_row_changes_no_config(scheduler: str) -> None:
    scenario = Search(scheduler=scheduler, trials=24)
    whole = scenario.run()
    modelled = [row for row in whole.log.rows if row.kind == "suggested" and row.data.get("memo")]
    assert len(modelled) > 5, "the model was not at work"
    expected = {number: row.config for number, row in whole.log.trials.items()}
    for seq in range(1, len(whole.log.rows), 7):
        again = scenario.build(whole.log.cut(seq))
        recover(again.runner)
        again.drive()
        assert {number: row.config for number, row in again.log.trials.items()} == expected, f"cut after row {seq}"
