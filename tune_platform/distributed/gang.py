"""The workers that come with a trial's lease. Imports no torch: every trial's context may hold one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

from tune_platform.errors import SpecError
from tune_platform.extras import is_installed, require
from tune_platform.protocol.trial_log import LOG_LIMIT

if TYPE_CHECKING:
    from tune_platform.distributed.group import WorkerGroup
    from tune_platform.distributed.ray_gang import RayLauncher

#: How the workers run: turns of threads in this process, processes of this machine, or Ray actors.
GangKind = Literal["threads", "processes", "ray"]


class Gang:
    """`workers` workers that one trial after the other takes over: `group()` starts them when first asked for.

    `bundle` are the resources of each worker by name, `log_limit` is the job's. Raises ValueError for an unknown kind.
    """

    def __init__(
        self, kind: GangKind, workers: int, bundle: Mapping[str, float] | None = None, log_limit: int = LOG_LIMIT
    ) -> None:
        if kind not in get_args(GangKind):
            raise ValueError(f"a gang is one of {', '.join(get_args(GangKind))}, got {kind!r}")
        self.kind, self.workers = kind, workers
        self.bundle = dict(bundle or {"cpu": 1.0})
        self._log_limit = log_limit
        #: Whether the workers could not be started: where they should run, they cannot.
        self.broken = False
        self._group: WorkerGroup | None = None
        self._timeout_s = 0.0
        self._launcher: RayLauncher | None = None

    def start(self, preload: bytes = b"") -> None:
        """Have Ray actors start now, beside what this process does until it asks for the `group`.

        They unpickle `preload`, so that they have imported what it names. Without torch none starts: a trial that
        asks for the `group` is told, and one that uses what it holds in a way of its own needs none.
        """
        if self.kind == "ray" and is_installed("torch"):
            self._ray_launcher().start(self.workers, preload)

    def group(self, timeout_s: float = 60.0) -> WorkerGroup:
        """Return the gang, complete; a group that lost workers is filled up, or replaced where that fails.

        `timeout_s` bounds every collective. Raises PeerLost where the workers do not start, SpecError where
        they hold GPUs that torch does not see, MissingLibraryError where torch is not installed.
        """
        require("a gang of workers", "torch")
        from tune_platform.distributed.communicator import PeerLost

        group = self._group
        if group is not None and self._timeout_s == timeout_s:
            try:
                group.refill()
                if not group.whole:
                    group.regroup()
                if not group.lost:
                    return group
            except PeerLost:
                pass
        if group is not None:
            self.close()
        self.broken = True
        self._group, self._timeout_s = self._start(timeout_s), timeout_s
        self.broken = False
        return self._group

    def close(self) -> None:
        """End the workers, if there are any. Safe to call twice."""
        group, self._group = self._group, None
        if group is not None:
            group.close()
        if self._launcher is not None:
            self._launcher.close()

    def _ray_launcher(self) -> RayLauncher:
        from tune_platform.distributed.ray_gang import RayLauncher

        if self._launcher is None:
            self._launcher = RayLauncher(self.bundle, self._log_limit)
        return self._launcher

    def _start(self, timeout_s: float) -> WorkerGroup:
        from tune_platform.distributed.group import LocalGroup, RemoteGroup

        if self.kind == "threads" or (self.workers == 1 and self.kind != "ray"):
            return LocalGroup(self.workers)
        import torch

        device = "cuda" if self.bundle.get("gpu", 0) > 0 else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise SpecError(
                f"each worker holds {self.bundle['gpu']:g} GPU, but torch {torch.__version__} sees none here: is it a "
                "build for CUDA, with a driver, and CUDA_VISIBLE_DEVICES as it should be? Without GPUs leave `gpu` out"
            )
        if self.kind == "ray":
            return self._ray_launcher().group(self.workers, timeout_s)
        from tune_platform.distributed.process_group import backend_for
        from tune_platform.distributed.processes import ProcessPeer

        threads = max(1, int(self.bundle.get("cpu", 1)))
        backend = backend_for(device, self.bundle.get("gpu", 0.0))
        # On one machine worker i takes the i-th GPU; where there are fewer, several share one (and gloo).
        return RemoteGroup(
            self.workers,
            lambda worker, seat, fresh: ProcessPeer(worker, fresh, _device(device, seat), threads, self._log_limit),
            device=_device(device, 0), threads=threads, backend=backend, timeout_s=timeout_s,
        )  # fmt: skip


def _device(device: str, seat: int) -> str:
    if device == "cpu":
        return device
    import torch

    return f"cuda:{seat % max(1, torch.cuda.device_count())}"
