"""What of a script's settings is refused by name, and what is so anyway; `tuner` maps what is not named here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tune_platform.errors import SpecError

#: Ray's environment variable that says whether a trial works in its own folder.
CHDIR = "RAY_CHDIR_TO_TRIAL_DIR"
_LOG = logging.getLogger("tune_platform")
NO_FILESYSTEM = (
    "give storage_path as a directory, and checkpoints a place of their own by an fsspec path: "
    "SearchSpec(checkpoint=CheckpointPolicy(storage='s3://...'))"
)


class _Refusal(NamedTuple):
    """What to do in place of a setting that has no counterpart; `asked` tells a value that asks for it."""

    instead: str
    asked: Callable[[Any], bool] = bool


def _is_given(value: Any) -> bool:
    return value is not None and value != "DEPRECATED"  # which is how Ray Tune says so


#: What has no counterpart, by where it is set.
_REFUSED: Mapping[str, Mapping[str, _Refusal]] = {
    "TuneConfig": {"chdir_to_trial_dir": _Refusal(f"set the environment variable {CHDIR}", _is_given)},
    "RunConfig": {
        "storage_filesystem": _Refusal(NO_FILESYSTEM, _is_given),
        "local_dir": _Refusal("give storage_path", _is_given),
    },
    "SyncConfig": {"sync_artifacts": _Refusal("files that a trial needs later go into its checkpoint")},
    "tune.run": {
        "restore": _Refusal("start a search from a checkpoint by loading it in the trainable"),
        "resume_config": _Refusal("give resume='AUTO', or 'AUTO+ERRORED' to try failed trials again"),
        "chdir_to_trial_dir": _Refusal(f"set the environment variable {CHDIR}"),
        "export_formats": _Refusal("write the model with the checkpoint"),
        "local_dir": _Refusal("give storage_path"),
        "keep_checkpoints_num": _Refusal("give checkpoint_config=CheckpointConfig(num_to_keep=...)"),
        "checkpoint_score_attr": _Refusal("give checkpoint_config=CheckpointConfig(checkpoint_score_attribute=...)"),
        "checkpoint_freq": _Refusal("give checkpoint_config=CheckpointConfig(checkpoint_frequency=...)"),
        "checkpoint_at_end": _Refusal("give checkpoint_config=CheckpointConfig(checkpoint_at_end=...)"),
    },
    "Tuner.restore": {"storage_filesystem": _Refusal(NO_FILESYSTEM, _is_given)},
    "Result.from_path": {"storage_filesystem": _Refusal("trials have folders on a disk", _is_given)},
}
#: What of a RunConfig asks for something that is so anyway; the log tells how.
_ANYWAY = {
    "sync_config": "reports and checkpoints are written to where they are kept as they come",
    "log_to_file": "what a trial prints is always kept, in `log.txt` of its folder",
}


def check_kinds(**given: Any) -> None:
    """Raise SpecError for what is no TuneConfig or RunConfig, ours or Ray Tune's."""
    for name, value in given.items():
        wanted = {"tune_config": "TuneConfig", "run_config": "RunConfig"}[name]
        if value is not None and all(base.__name__ != wanted for base in type(value).__mro__):
            raise SpecError(f"Tuner({name}={value!r}): a {wanted} is wanted")


def check_settings(tune: Any, run: Any) -> None:
    """Raise SpecError for what a TuneConfig and a RunConfig, ours or Ray Tune's, ask for and cannot have."""
    for where, settings in (("TuneConfig", tune), ("RunConfig", run), ("SyncConfig", run.sync_config)):
        check_refused(where, {name: getattr(settings, name, None) for name in _REFUSED[where]})
    for name, why in _ANYWAY.items():
        if getattr(run, name, None) not in (None, False):
            _LOG.info("RunConfig(%s=...) is not needed: %s", name, why)


def check_refused(where: str, given: Mapping[str, Any]) -> None:
    """Raise SpecError for the first of the arguments given to `where` that asks for what it cannot have."""
    for name, (instead, asked) in _REFUSED[where].items():
        if asked(given.get(name)):
            raise SpecError(f"{where}({name}=...) is not supported: {instead}")


def refused_names(where: str) -> list[str]:
    """Return the names of the arguments of `where` that are known and refused."""
    return list(_REFUSED[where])
