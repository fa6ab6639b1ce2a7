"""A copy of a checkpoint on its way from process to process, through Ray's object store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from tune_platform.backends._memory import Copy

#: Seconds that it may take, after which the checkpoint is read from storage.
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Held:
    """What a process was asked to give, for the one that needs it; the driver never has the bytes."""

    ref: Any

    def __call__(self) -> Copy | None:
        """Wait for it; None where its process has died, is not heard of, or does not have it any more."""
        try:
            found: Copy | None = ray.get(self.ref, timeout=_PATIENCE_S)
        except Exception:  # whatever Ray says: the checkpoint is in storage as well
            return None
        return found
