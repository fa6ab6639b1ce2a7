"""Workers of a gang as Ray actors, in the placement group of the actor that runs the trial.

The trial's own process is the first worker, in bundle 0; it owns the others, so that they end when it ends, however
that comes about.
"""

from __future__ import annotations

import sys
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tune_platform.distributed.group import RemoteGroup
from tune_platform.distributed.member import Answer, Member
from tune_platform.distributed.process_group import backend_for


class RayPeer:
    """A worker that is a Ray actor; see `group.Peer`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._call: Any = None

    def send(self, method: str, args: tuple[Any, ...]) -> None:
        """See `group.Peer`."""
        self._call = getattr(self._actor, method).remote(*args)

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


def ray_group(workers: int, bundle: dict[str, float], device: str, timeout_s: float) -> RemoteGroup:
    """Start the other workers of the gang whose first one this process is.

    Raises RuntimeError where this process is not in a placement group.
    """
    placement = get_current_placement_group()
    if placement is None:
        raise RuntimeError("a gang of Ray actors needs a placement group around the process of the trial")
    remote = ray.remote(Member)
    amounts = {name: amount for name, amount in bundle.items() if name not in ("cpu", "gpu", "memory")}
    threads = max(1, int(bundle.get("cpu", 1)))

    def launch(worker: int, slot: int, fresh: bool) -> RayPeer:
        options: dict[str, Any] = {"num_cpus": bundle.get("cpu", 0), "num_gpus": bundle.get("gpu", 0)}
        if "memory" in bundle:
            options["memory"] = bundle["memory"]
        strategy = PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=slot)
        actor = remote.options(resources=amounts, scheduling_strategy=strategy, max_restarts=0, **options)
        return RayPeer(actor.remote(worker, device, threads, sys.path, fresh))

    return RemoteGroup(
        workers, launch, address=get_node_ip_address(), device=device, threads=threads,
        backend=backend_for(device, bundle.get("gpu", 0.0)), timeout_s=timeout_s,
    )  # fmt: skip
