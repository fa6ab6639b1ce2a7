"""Ray Tune's trainables in a worker of ours: its session calls in a function, and subclasses of its `Trainable`.

`ray.tune` is never imported for its own sake, for that takes seconds a process: what is done here begins once the
user's code has imported it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CellType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, ClassVar

import cloudpickle

from tune_platform.trainable import Trainable, TrialContext, get_checkpoint, get_context, report

#: Where Ray Tune looks for the session of a function that it runs.
_SESSION = "ray.train._internal.session"
#: What Ray Tune adds to each report of a class: known of every report here, or of its trial, or of no use.
_ASIDE = frozenset({
    "config", "date", "hostname", "iterations_since_restore", "node_ip", "pid", "time_since_restore", "timestamp",
    "time_this_iter_s", "time_total_s", "trial_id", "experiment_tag", "training_iteration",
})  # fmt: skip
#: The file in a checkpoint with a class's state, where it gave a dict back; and that with its counters.
_STATE, _COUNTERS = "_dict_checkpoint.pkl", "_ray_tune.json"


class Session:
    """What `ray.tune.report`, `get_checkpoint` and `get_context` find in place of Ray Tune's own session."""

    world_rank = None

    def report(self, metrics: Mapping[str, Any], checkpoint: Any = None, **_: Any) -> None:
        """Report; `training_iteration` and `time_total_s` are known of every report anyway."""
        metrics = listed(metrics)
        if checkpoint is None or not hasattr(checkpoint, "as_directory"):
            report(metrics, checkpoint)
            return
        with checkpoint.as_directory() as directory:
            report(metrics, directory)

    @property
    def loaded_checkpoint(self) -> Any:
        """Ray Tune's Checkpoint of the directory to resume from, or None."""
        found = get_checkpoint()
        return None if found is None else sys.modules["ray.tune"].Checkpoint.from_directory(str(found))

    @property
    def experiment_name(self) -> str:
        """The experiment's name."""
        return get_context().experiment

    @property
    def trial_id(self) -> str:
        """The trial's number, in Ray Tune's form."""
        return trial_id(get_context().trial)

    @property
    def trial_name(self) -> str:
        """The trial's name."""
        return f"trial_{self.trial_id}"

    @property
    def trial_dir(self) -> str:
        """The trial's own folder."""
        return str(get_context().directory)

    @property
    def trial_resources(self) -> Any:
        """What the trial holds, as Ray Tune's PlacementGroupFactory."""
        return _factory(get_context())

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"Ray Tune's session has no {name!r} here; there are report, get_checkpoint and get_context with the "
            "trial's name, id, directory and resources, and the experiment's name"
        )


_session = Session()


def listed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics with lists for arrays and tensors, which Ray Tune takes as well; the rest as it is."""
    return {
        name: listed(value) if isinstance(value, Mapping) else value.tolist() if getattr(value, "shape", ()) else value
        for name, value in metrics.items()
    }


def trial_id(number: int) -> str:
    """Return a trial's number as Ray Tune writes ids."""
    return f"{number:05d}"


def catch_reports() -> None:
    """Make `ray.tune.report` and what goes with it work in this process, now or once it is imported."""
    module = sys.modules.get(_SESSION)
    if module is not None:
        _put(module)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def release_reports() -> None:
    """Leave Ray Tune's session as it was, for code of this process that uses Ray Tune itself."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watch)]
    module = sys.modules.get(_SESSION)
    if module is not None and getattr(module, "_session", None) is _session:
        module._session = None  # type: ignore[attr-defined]


def _put(module: ModuleType) -> None:
    if getattr(module, "_session", None) is None:
        module._session = _session  # type: ignore[attr-defined]


class _Watch(MetaPathFinder):
    """Waits for a train function that imports Ray Tune only when it is called."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _SESSION:
            return None
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_put(module: ModuleType) -> None:
                run(module)
                _put(module)

            spec.loader.exec_module = run_and_put  # type: ignore[method-assign]
        return spec


# ------------------------------------------------------------------------------------------ classes


def is_ray_class(value: Any) -> bool:
    """Whether it is a subclass of Ray Tune's Trainable."""
    return isinstance(value, type) and any(
        base.__name__ == "Trainable" and base.__module__.startswith("ray.tune.") for base in value.__mro__
    )


def adapted(trainable: Any) -> Any:
    """Return a subclass of Ray Tune's Trainable as one of ours; anything else as it is."""
    if not is_ray_class(trainable):
        return trainable
    kind = _Reusable if _overrides(trainable, "reset_config") else RayTrainable
    return type(trainable.__name__, (kind,), {"ray_class": trainable, "__module__": trainable.__module__})


def _overrides(ray_class: type, method: str) -> bool:
    found: Callable[..., Any] = getattr(ray_class, method)
    return not (found.__module__ or "").startswith("ray.tune.trainable.trainable")


class RayTrainable(Trainable):
    """A class of Ray Tune's, driven by ours: `train` is a step, `save_checkpoint` may give a dict or write files."""

    ray_class: ClassVar[Any]

    def setup(self, config: dict[str, Any]) -> None:
        """Build the object, whose own `setup` this calls."""
        context = self.context

        class Placed(self.ray_class):  # type: ignore[misc, name-defined]
            def _setup_logdir(self) -> None:
                self._logdir = str(context.directory)

        Placed.__name__, Placed.__qualname__ = self.ray_class.__name__, self.ray_class.__qualname__
        self.inner: Any = Placed(config={**config, "__trial_info__": _trial_info(context)})

    def step(self) -> Mapping[str, Any]:
        """Train once; what Ray Tune adds is left out."""
        result = self.inner.train()
        kept = {name: value for name, value in result.items() if name not in _ASIDE}
        if not kept.get("done"):
            kept.pop("done", None)
        return listed(kept)

    def save_checkpoint(self, directory: Path) -> bool:
        """Let it write into `directory`, or keep the dict that it gives back."""
        if not _overrides(self.ray_class, "save_checkpoint"):
            return False
        saved = self.inner.save_checkpoint(str(directory))
        if isinstance(saved, Mapping):
            (directory / _STATE).write_bytes(cloudpickle.dumps(dict(saved)))
        elif saved is not None and Path(saved).resolve() != directory.resolve():
            source = Path(saved)
            if source.is_dir() and directory.resolve() not in source.resolve().parents:
                shutil.copytree(source, directory, dirs_exist_ok=True)
        counters = {"training_iteration": self.inner._iteration, "time_total_s": self.inner._time_total}
        (directory / _COUNTERS).write_text(json.dumps(counters), encoding="utf-8")
        return True

    def load_checkpoint(self, directory: Path) -> None:
        """Give it its dict, or the directory with its files."""
        if (directory / _COUNTERS).is_file():
            counters = json.loads((directory / _COUNTERS).read_text(encoding="utf-8"))
            self.inner._iteration, self.inner._time_total = counters["training_iteration"], counters["time_total_s"]
        state = directory / _STATE
        self.inner.load_checkpoint(cloudpickle.loads(state.read_bytes()) if state.is_file() else str(directory))

    def cleanup(self) -> None:
        """Let it give back what it holds."""
        inner = getattr(self, "inner", None)
        if inner is not None:
            inner.stop()


class _Reusable(RayTrainable):
    """A class with a `reset_config` of its own serves one trial after another."""

    def reset_config(self, config: dict[str, Any]) -> bool:
        """As Ray Tune's `reset`, in the new trial's folder."""
        context = self.context
        self.inner._setup_logdir = lambda: setattr(self.inner, "_logdir", str(context.directory))
        return bool(self.inner.reset({**config, "__trial_info__": _trial_info(context)}))


def _trial_info(context: TrialContext) -> Any:
    number = trial_id(context.trial)
    return SimpleNamespace(
        trial_name=f"trial_{number}", trial_id=number, experiment_name=context.experiment,
        trial_resources=_factory(context) if "ray.tune" in sys.modules else None,
    )  # fmt: skip


def _factory(context: TrialContext) -> Any:
    names = {"cpu": "CPU", "gpu": "GPU"}
    bundle = {names.get(name, name): amount for name, amount in context.resources.items()}
    return sys.modules["ray.tune"].PlacementGroupFactory([bundle]) if bundle else None


def hold_parameters(trainable: Any) -> None:
    """Replace the store of a trainable that `with_parameters` has wrapped by its values; else do nothing.

    Ray Tune puts them into Ray's object store, from which its wrapper fetches them in each trial. A process of ours
    that trains is no client of that store, so they travel with the trainable.
    """
    for cell in _cells(trainable):
        held = cell.cell_contents
        if type(held).__name__ == "_ParameterRegistry":
            cell.cell_contents = {name: held.get(name) for name in (*held.to_flush, *held.references)}


def _cells(trainable: Any) -> Iterator[CellType]:
    """Yield the closure of Ray Tune's wrapper of a function, or of the `setup` of a class's wrappers."""
    if isinstance(trainable, FunctionType) and trainable.__module__ == "ray.tune.trainable.util":
        yield from trainable.__closure__ or ()
    elif isinstance(trainable, type):
        for kind in trainable.__mro__:
            setup = vars(kind).get("setup")
            if kind.__module__ == "ray.tune.trainable.util" and isinstance(setup, FunctionType):
                yield from setup.__closure__ or ()
