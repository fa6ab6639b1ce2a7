"""An object in a process on another node of a cluster, for whoever looks for what lies there alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tune_platform.cluster.standing import joined
from tune_platform.errors import ExperimentError

#: Seconds for a process there to start.
_STARTS_WITHIN = 120.0


@contextmanager
def made_on(
    host: str, kind: type, *arguments: Any, address: str | None, seconds: float
) -> Iterator[Callable[..., Any]]:
    """Join the cluster, have `kind(*arguments)` made on the node of that host name; give what calls its methods.

    The first argument of a call is the name of the method.

    Nothing is taken from the searches that run there. Raises ExperimentError where the cluster cannot be joined within
    `seconds`, has no such node, or no process starts on it.
    """
    with joined(address, seconds):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = {node["NodeManagerHostname"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if host not in nodes:
            known = ", ".join(sorted(nodes))
            raise ExperimentError(f"{host} is no node of this cluster any more; it has {known}")
        place = NodeAffinitySchedulingStrategy(nodes[host], soft=False)
        there = ray.remote(num_cpus=0, scheduling_strategy=place)(kind).remote(*arguments)
        try:
            ray.get(there.__ray_ready__.remote(), timeout=_STARTS_WITHIN)
            yield lambda method, *given: ray.get(getattr(there, method).remote(*given))
        except ray.exceptions.RayError as error:
            raise ExperimentError(f"{host} gives no answer: {str(error).splitlines()[0]}") from None
        finally:
            ray.kill(there)
