"""What the callbacks of all frameworks share: a report with what the framework itself has saved."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tune_platform.errors import SpecError
from tune_platform.trainable import get_checkpoint, report


class Reporting:
    """Reports, and has every so many reports saved. Raises SpecError for a number below 0.

    `save_every` counts reports (0: nothing is saved); the last of a trial that the platform pauses or clones should be
    among them, so 1 suits schedulers that need checkpoints.
    """

    def __init__(self, save_every: int) -> None:
        if save_every < 0:
            raise SpecError(f"save_every: got {save_every!r}; a number of reports is wanted, 0 for none")
        self._every, self._count = save_every, 0

    def __call__(self, metrics: Mapping[str, Any], save: Callable[[Path], object]) -> None:
        """Report; `save(directory)` writes what to go on from. Raises TrialStopped where the trial ends here."""
        self._count += 1
        if not self._every or self._count % self._every:
            report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            report(metrics, checkpoint=folder)


def saved_file(name: str) -> Path | None:
    """Return the file of this name in the checkpoint that the trial goes on from; None where it begins anew."""
    found = get_checkpoint()
    if found is None:
        return None
    path = Path(found) / name
    return path if path.exists() else None
