"""What of a Tuner's settings is refused by name, and what is so anyway. What is not named here is mapped by `tuner`."""

from __future__ import annotations

import logging
from typing import Any

from tune_platform.errors import SpecError

#: Ray's environment variable that says whether a trial works in its own folder.
CHDIR = "RAY_CHDIR_TO_TRIAL_DIR"
_LOG = logging.getLogger("tune_platform")
NO_FILESYSTEM = (
    "give storage_path as a directory, and checkpoints a place of their own by an fsspec path: "
    "SearchSpec(checkpoint=CheckpointPolicy(storage='s3://...'))"
)
#: What has no counterpart, and what to do instead.
_REFUSED = {"storage_filesystem": NO_FILESYSTEM, "local_dir": "give storage_path"}
#: What asks for something that is so anyway; the log tells how.
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
    for name, instead in _REFUSED.items():
        if getattr(run, name, None) is not None:
            raise SpecError(f"RunConfig({name}=...) is not supported: {instead}")
    if getattr(run.sync_config, "sync_artifacts", False):
        raise SpecError(
            "SyncConfig(sync_artifacts=True) is not supported: files that a trial needs later go into its checkpoint"
        )
    if getattr(tune, "chdir_to_trial_dir", None) not in (None, "DEPRECATED"):
        raise SpecError(f"TuneConfig(chdir_to_trial_dir=...) is not supported: set the environment variable {CHDIR}")
    for name, why in _ANYWAY.items():
        if getattr(run, name, None) not in (None, False):
            _LOG.info("RunConfig(%s=...) is not needed: %s", name, why)
