"""The notes of all drivers of a Ray cluster, in Ray's own store of keys and values."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import ray
from ray._private.state import jobs
from ray.experimental import internal_kv

_NAMESPACE = "tune-platform"


class RayBoard:
    """A `tune_platform.cluster.admission.Board`. Drivers are named by their Ray job, whose number rises.

    `kind` of notes: those of another are on another board.
    """

    def __init__(self, kind: str = "driver") -> None:
        self._prefix = f"{kind}-"
        self.name = f"{ray.get_runtime_context().get_job_id()}-{uuid.uuid4().hex[:8]}"

    def write(self, note: str) -> None:
        """See `Board.write`."""
        internal_kv._internal_kv_put(self._prefix + self.name, note, overwrite=True, namespace=_NAMESPACE)

    def read(self) -> Mapping[str, str]:
        """See `Board.read`."""
        notes = {}
        for key in internal_kv._internal_kv_list(self._prefix, namespace=_NAMESPACE):
            note = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
            if note is not None:  # else it was taken down in between
                notes[key.decode().removeprefix(self._prefix)] = note.decode()
        return notes

    def alive(self, names: Sequence[str]) -> set[str]:
        """See `Board.alive`."""
        dead = {job["JobID"] for job in jobs() if job["IsDead"]}
        return {name for name in names if name.partition("-")[0] not in dead}

    def remove(self, name: str) -> None:
        """See `Board.remove`."""
        internal_kv._internal_kv_del(self._prefix + name, namespace=_NAMESPACE)
