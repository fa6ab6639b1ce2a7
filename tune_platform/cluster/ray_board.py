"""The notes of all drivers of a Ray cluster, in Ray's own store of keys and values."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence

import ray
from ray._private.state import jobs
from ray.experimental import internal_kv

_NAMESPACE = "tune-platform"
_QUOTAS = "quotas"


class RayBoard:
    """A `tune_platform.cluster.admission.Board`. Drivers are named by their Ray job, whose number rises.

    `kind` of notes: those of another are on another board.
    """

    def __init__(self, kind: str = "search") -> None:
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

    def quotas(self) -> Mapping[str, Mapping[str, float]]:
        """See `Board.quotas`."""
        text = internal_kv._internal_kv_get(_QUOTAS, namespace=_NAMESPACE)
        found: Mapping[str, Mapping[str, float]] = json.loads(text) if text else {}
        return found

    def set_quota(self, user: str, quota: Mapping[str, float]) -> None:
        """Set what a user may hold; nothing: whatever there is."""
        quotas = {name: amounts for name, amounts in self.quotas().items() if name != user}
        text = json.dumps({**quotas, user: dict(quota)} if quota else quotas)
        internal_kv._internal_kv_put(_QUOTAS, text, overwrite=True, namespace=_NAMESPACE)

    def alive(self, names: Sequence[str]) -> set[str]:
        """See `Board.alive`."""
        dead = {job["JobID"] for job in jobs() if job["IsDead"]}
        return {name for name in names if name.partition("-")[0] not in dead}

    def remove(self, name: str) -> None:
        """See `Board.remove`."""
        internal_kv._internal_kv_del(self._prefix + name, namespace=_NAMESPACE)
