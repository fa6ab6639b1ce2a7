"""The training code and the scheduler of the experiments in `version_3/`; what they do must not change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune_platform import Trainable


class Curve(Trainable):
    """A loss that falls with the steps; the checkpoint is the step. Some trials fail at step 3, the first time."""

    def setup(self, config: dict[str, Any]) -> None:
        self.now = 0

    def step(self) -> Mapping[str, Any] | None:
        self.now += 1
        if self.now > 9:
            return None
        if self.now == 3 and self.config.get("fails") and self.context.attempt == 1:
            raise ArithmeticError("the loss exploded")
        return {"loss": round(abs(self.config["x"] - 0.3) + 1 / self.now, 6), "epoch": 2 * self.now}

    def save_checkpoint(self, directory: Path) -> None:
        (directory / "state.json").write_text(json.dumps({"step": self.now}))

    def load_checkpoint(self, directory: Path) -> None:
        self.now = json.loads((directory / "state.json").read_text())["step"]
