"""A training that does nothing, for each of the systems that are compared: only the control plane is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tune_platform.trainable import Trainable


def loss(x: float, step: int) -> float:
    """Return a loss that ranks configs and falls with the steps."""
    return (x - 0.3) ** 2 + 1 / step


def curve(config: Mapping[str, Any], step: int) -> Mapping[str, Any] | None:
    """The same as a curve for the simulated backend; it ends after 10 steps."""
    return {"loss": loss(config["x"], step)} if step <= 10 else None


def simulated(config: Mapping[str, Any]) -> None:
    """Stand in a spec for the trainable whose curves are simulated."""
    raise NotImplementedError("it is simulated")


class NullTrainable(Trainable):
    """The null training behind the waist."""

    def setup(self, config: dict[str, Any]) -> None:
        """Keep the config."""
        self.x, self.done = config["x"], 0

    def step(self) -> Mapping[str, Any]:
        """Report a loss."""
        self.done += 1
        return {"loss": loss(self.x, self.done)}

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Serve another trial."""
        self.setup(config)
        return True


def make_ray_tune_trainable() -> type:
    """Return the null training as a trainable of Ray Tune (imported only here)."""
    from ray import tune

    class Null(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.x, self.done = config["x"], 0

        def step(self) -> dict[str, Any]:
            self.done += 1
            return {"loss": loss(self.x, self.done)}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Save nothing; Ray Tune calls it when it takes an actor for another trial."""

        def load_checkpoint(self, checkpoint: object) -> None:
            """Load nothing."""

        def reset_config(self, config: dict[str, Any]) -> bool:
            self.setup(config)
            return True

    return Null
