"""A run without backend and store, turn by turn, for what listens to it."""

from __future__ import annotations

from typing import Any

from tests.tune_platform.cli.conftest import TRACEBACK
from tune_platform.engine.controller import Controller
from tune_platform.engine.settings import Settings
from tune_platform.engine.view import RunView
from tune_platform.protocol.effects import Effect
from tune_platform.protocol.events import CapacityChanged, Event, Failed, Reported, Started, Suggested
from tune_platform.protocol.reports import Report
from tune_platform.schedulers import FIFO


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Drive:
    """A controller whose turns are shown to a listener."""

    def __init__(
        self, listener: Any, trials: int = 3, started: int | None = None, clock: Clock | None = None, **settings: Any
    ) -> None:
        self.listener, self.clock = listener, clock
        values = {"metrics": ("loss",), "modes": ("min",), "num_samples": trials, **settings}
        self.controller = Controller(Settings(**values), FIFO())
        self.turn(CapacityChanged(time=0.0, nodes=({"cpu": float(trials)},)))
        configs = [{"lr": 0.1 * (n + 1), "epochs": 9, "name": str(n) + "x" * 60} for n in range(trials)]
        self.turn(*(Suggested(time=0.0, trial=n, config=config) for n, config in enumerate(configs)))
        self.turn(*(Started(time=0.0, trial=n, attempt=1) for n in range(started if started is not None else trials)))

    def turn(self, *events: Event) -> Any:
        effects: list[Effect] = []
        for event in events:
            assert self.controller.accepts(event)
            self.controller.handle(event, self.clock.now - Clock.now if self.clock else 0.0)
            effects += self.controller.effects
        return self.listener(RunView(self.controller), events, effects)

    def report(self, trial: int, step: int, loss: float, done: bool = False) -> Any:
        report = Report(step, {"loss": loss}, 1.0)
        attempt = self.controller.state.trials[trial].attempt
        return self.turn(Reported(time=1.0, trial=trial, attempt=attempt, reports=(report,), done=done))

    def fail(self, trial: int, message: str = "boom", traceback: str = TRACEBACK) -> Any:
        attempt = self.controller.state.trials[trial].attempt
        return self.turn(Failed(time=1.0, trial=trial, attempt=attempt, cause="exception", message=message,
                                traceback=traceback))  # fmt: skip
