"""A checkpoint as people use it: a directory with the files that the training code wrote."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_platform.cache import cache_folder
from tune_platform.errors import CheckpointError
from tune_platform.modules import entrypoint_today
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.ray_tune.session import adapted
from tune_platform.state import load_state
from tune_platform.store.checkpoints import CheckpointStorage
from tune_platform.trainable import Trainable, TrialContext, make_trainable


@dataclass(frozen=True, slots=True)
class Origin:
    """What a checkpoint is of: `trainable` as the spec has it, or live, and the trial's config."""

    experiment: str = ""
    trainable: Any = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint(os.PathLike[str]):
    """A checkpoint of `trial` after report `step`: a path of the directory that holds the user's own files.

    Use it as a path (`open(checkpoint / "model.pt")`, `checkpoint.iterdir()`, wherever one is taken), or `load()` it.
    `uri` says where the platform keeps it, `bytes` how much it takes. `nearest_to` is the step that was looked for,
    where that step's own is not kept; None where it is. The files of an object store are fetched when they are first
    needed, once, into TUNE_PLATFORM_CACHE (default: `~/.cache/tune_platform`).
    """

    trial: int
    step: int
    uri: str
    bytes: int = 0
    nearest_to: int | None = None
    origin: Origin = field(default=Origin(), repr=False, compare=False)

    @property
    def location(self) -> str:
        """Where the user's files lie, as a path or URL; nothing is fetched."""
        return f"{self.uri}/files"

    @property
    def path(self) -> Path:
        """The local directory with the user's files. Raises CheckpointError where they are not there any more."""
        return self._files(verify=False)

    def load(self, trainable: Any = None) -> Any:
        """Return the state in it, after its sums are checked.

        Of a train function that is what it gave to `report(..., checkpoint=state)`, or the content of the files that
        it wrote (see `state.load_state`). Of a class, an object of it, set up with the trial's config, into which the
        checkpoint is loaded. `trainable` says which class or function, where the search's own cannot be imported here.
        Raises CheckpointError where that cannot be, and what the training code raises.
        """
        directory = self._files(verify=True)
        made = adapted(self._trainable(self.origin.trainable if trainable is None else trainable))
        if isinstance(made, type) and issubclass(made, Trainable):
            config = dict(self.origin.config)
            loaded = make_trainable(made, TrialContext(experiment=self.origin.experiment, trial=self.trial))
            loaded.config = config
            loaded.setup(dict(config))
            loaded.load_checkpoint(directory)
            return loaded
        try:
            return load_state(directory)
        except ValueError as error:
            hint = "" if made is not None else "; of a class: load(TheTrainable)"
            raise CheckpointError(f"{error}{hint}") from error

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        return self.path / name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.path, name)  # exists, iterdir, glob, joinpath, ...

    def __str__(self) -> str:
        return self.location

    def _files(self, *, verify: bool) -> Path:
        root = self.uri.rsplit("/", 2)[0]
        ref = CheckpointRef(self.trial, self.step, self.uri, self.bytes)
        return CheckpointStorage(root).fetch(ref, cache_folder() / "checkpoints", verify=verify)

    def _trainable(self, given: Any) -> Any:
        """Return the class or function; None where it cannot be imported here."""
        name = given.get("python") if isinstance(given, Mapping) else given
        if not isinstance(name, str):
            return given
        module, _, path = entrypoint_today(name).partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError):
            return None
        return found


def nearest(kept: Sequence[Checkpoint], step: int | None) -> Checkpoint | None:
    """Return the checkpoint of this step, else the nearest to it (of two the newer); the newest, if `step` is None."""
    if not kept:
        return None
    if step is None:
        return kept[-1]
    found = min(reversed(kept), key=lambda each: abs(each.step - step))
    if found.step == step:
        return found
    return Checkpoint(found.trial, found.step, found.uri, found.bytes, nearest_to=step, origin=found.origin)
