"""Our trainables in a plain `ray.tune.Tuner`: `Tuner(as_trainable(train))`, gangs of workers too."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ray.tune import PlacementGroupFactory
from ray.tune import Trainable as RayTrainable
from ray.tune.result import RESULT_DUPLICATE

from tune_platform.distributed.gang import Gang
from tune_platform.errors import SpecError
from tune_platform.protocol.seeds import derive
from tune_platform.resources import Resources
from tune_platform.spec.entrypoint import load_entrypoint
from tune_platform.trainable import FunctionTrainable, Trainable, TrialContext, make_trainable, plain_metrics

_NAMES = {"cpu": "CPU", "gpu": "GPU"}


class AsTrainable(RayTrainable):  # type: ignore[misc]
    """One of our trainables behind Ray Tune's interface; `as_trainable` makes a subclass of it.

    The workers of a gang are processes on the node where the trial is: their resources are asked for in one bundle.
    """

    ours: ClassVar[Any]
    resources: ClassVar[Resources]
    seed: ClassVar[int]

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Ask for what all workers of the trial hold, in one place."""
        bundle = {
            _NAMES.get(name, name): amount * cls.resources.workers for name, amount in cls.resources.bundle().items()
        }
        return PlacementGroupFactory([bundle or {"CPU": 0}])

    def setup(self, config: dict[str, Any]) -> None:
        """Make the trainable, and set it up."""
        workers, bundle = self.resources.workers, self.resources.bundle()
        self._gang = Gang("processes", workers, bundle) if workers > 1 else None
        self._inner = make_trainable(self.ours, self._context())
        self._inner.config = dict(config)
        self._inner.setup(dict(config))

    def _context(self) -> TrialContext:
        name = str(self.trial_id or "0")
        number = name.rpartition("_")[2]
        return TrialContext(
            trial=int(number) if number.isdecimal() else 0,
            seed=derive(self.seed, "trial", name), resources=self.resources.bundle(), folder=str(self.logdir),
            gang=self._gang,
        )  # fmt: skip

    def step(self) -> dict[str, Any]:
        """Train for one report; one without anything new ends the trial, as with a function of Ray Tune's."""
        returned = self._inner.step()
        if returned is None:
            return {"done": True, RESULT_DUPLICATE: True}
        if not isinstance(returned, Mapping):
            raise TypeError(f"step() returns a dict of metrics, or None at the end; got {returned!r}")
        return plain_metrics(returned)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Let it write into the directory."""
        self._inner.save_checkpoint(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Let it read the directory, which a function keeps: Ray Tune deletes its own."""
        source = Path(checkpoint)
        if not any(source.iterdir()):
            return  # there was nothing to save
        if isinstance(self._inner, FunctionTrainable):
            kept = Path(str(self.logdir)) / "restored"
            shutil.rmtree(kept, ignore_errors=True)
            source = Path(shutil.copytree(source, kept))
        self._inner.load_checkpoint(source)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve another trial, where the trainable can."""
        if type(self._inner).reset_config is Trainable.reset_config:
            return False
        self._inner.context = self._context()
        self._inner.config = dict(new_config)
        return bool(self._inner.reset_config(dict(new_config)))

    def cleanup(self) -> None:
        """Give back what the trial holds, and end its workers."""
        self._inner.cleanup()
        if self._gang is not None:
            self._gang.close()


def as_trainable(trainable: Any, resources: Resources | Mapping[str, Any] | None = None, *, seed: int = 0) -> type:
    """Return a `ray.tune.Trainable` out of one of our trainables: a class, a function, or "module:name".

    `resources` are those of one trial, as in a `SearchSpec`; a gang's `workers` are processes on one node, and have
    their share of the trial's bundle. Raises SpecError for what is no trainable.
    """
    found = load_entrypoint(trainable) if isinstance(trainable, str) else trainable
    if not callable(found):
        raise SpecError(f"as_trainable: got {found!r}; a Trainable's class, a function of the config, or 'module:name'")
    held = resources if isinstance(resources, Resources) else Resources(**(resources or {}))
    name = getattr(found, "__name__", type(found).__name__)
    return type(name, (AsTrainable,), {"ours": staticmethod(found) if not isinstance(found, type) else found,
                                       "resources": held, "seed": seed})  # fmt: skip
