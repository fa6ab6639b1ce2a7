"""Workers of a gang as Ray actors, in the placement group of the actor that runs the trial.

The trial's own process is the first worker, in bundle 0; it owns the others, so that they end when it ends, however
that comes about. Imports no torch, so that the others can be started before this process has loaded it.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tune_platform.protocol.trial_log import LOG_LIMIT
from tune_platform.surroundings import Surroundings, surroundings

if TYPE_CHECKING:
    from tune_platform.distributed.group import RemoteGroup
    from tune_platform.distributed.member import Answer


class RayMember:
    """A `RemoteMember` as an actor. `preload`: a pickle that names the user's code, which is imported ahead of time."""

    def __init__(
        self, worker: int, device: str, threads: int, around: Surroundings, log_limit: int, fresh: bool,
        preload: bytes = b"",
    ) -> None:  # fmt: skip
        from tune_platform.distributed.remote_member import RemoteMember

        self._member = RemoteMember(worker, device, threads, around, log_limit, fresh)
        with suppress(Exception):  # the first worker meets the same error, and tells
            pickle.loads(preload)

    def ask(self, method: str, *args: Any) -> Answer:
        """Call a method of the `Member`."""
        answer: Answer = getattr(self._member, method)(*args)
        return answer


class RayPeer:
    """A worker that is a Ray actor; see `group.Peer`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._call: Any = None

    def send(self, method: str, args: tuple[Any, ...]) -> None:
        """See `group.Peer`."""
        self._call = self._actor.ask.remote(method, *args)

    def receive(self, timeout_s: float) -> Answer:
        """See `group.Peer`."""
        try:
            answer: Answer = ray.get(self._call, timeout=timeout_s)
        except GetTimeoutError as error:
            raise TimeoutError from error
        except (RayActorError, RayError) as error:
            raise ConnectionError(" ".join(str(error).split())[:300]) from error
        return answer

    def close(self) -> None:
        """See `group.Peer`."""
        ray.kill(self._actor, no_restart=True)


class RayLauncher:
    """Starts the other workers of the gang whose first one this process is, each in a bundle of its own.

    `bundle` are the resources of each by name, `log_limit` is the job's. Raises RuntimeError where this process is not
    in a placement group.
    """

    def __init__(self, bundle: Mapping[str, float], log_limit: int = LOG_LIMIT) -> None:
        self._placement = get_current_placement_group()
        if self._placement is None:
            raise RuntimeError("a gang of Ray actors needs a placement group around the process of the trial")
        self._bundle, self._log_limit = bundle, log_limit
        self._early: dict[int, RayPeer] = {}
        self.device = "cuda" if bundle.get("gpu", 0) > 0 else "cpu"
        self.threads = max(1, int(bundle.get("cpu", 1)))

    def start(self, workers: int, preload: bytes) -> None:
        """Start all but the first of the workers now, without waiting for them."""
        for seat in range(1, workers):
            self._early[seat] = self._start(seat, seat, False, preload)

    def launch(self, worker: int, seat: int, fresh: bool) -> RayPeer:
        """Return a worker: the one that was started ahead of time, or a new one."""
        early = self._early.pop(seat, None)
        if early is not None and not fresh:
            return early
        return self._start(worker, seat, fresh)

    def group(self, workers: int, timeout_s: float) -> RemoteGroup:
        """Return the gang, once its workers are up. Raises PeerLost where they do not come."""
        from tune_platform.distributed.group import RemoteGroup
        from tune_platform.distributed.process_group import backend_for

        return RemoteGroup(
            workers, self.launch, address=get_node_ip_address(), device=self.device, threads=self.threads,
            backend=backend_for(self.device, self._bundle.get("gpu", 0.0)), timeout_s=timeout_s,
        )  # fmt: skip

    def close(self) -> None:
        """End the workers that were started ahead of time and never asked for."""
        while self._early:
            self._early.popitem()[1].close()

    def _start(self, worker: int, seat: int, fresh: bool, preload: bytes = b"") -> RayPeer:
        amounts = {name: amount for name, amount in self._bundle.items() if name not in ("cpu", "gpu", "memory")}
        options: dict[str, Any] = {"num_cpus": self._bundle.get("cpu", 0), "num_gpus": self._bundle.get("gpu", 0)}
        if "memory" in self._bundle:
            options["memory"] = self._bundle["memory"]
        strategy = PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=seat)
        actor = ray.remote(RayMember).options(
            resources=amounts, scheduling_strategy=strategy, max_restarts=0, **options
        )
        around = surroundings()
        return RayPeer(actor.remote(worker, self.device, self.threads, around, self._log_limit, fresh, preload))
