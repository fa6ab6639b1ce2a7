"""The raw limit: how many actor calls a second a bare `ray.wait` loop gets through, and an actor alone.

    python -m benchmarks.raw_ray --actors 4 --calls 5000

What a control plane adds is seen by dividing its own rate of turns by these.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import ray


class Null:
    """An actor whose method returns a small tuple, as a worker does."""

    def run(self, *args: Any) -> tuple[int, int, float]:
        """Return at once."""
        return 1, 2, 3.0


def null_actors(count: int, cpus: float = 1.0) -> list[Any]:
    """Start `count` null actors on the Ray that is connected, and return them once all answer."""
    actor: Any = ray.remote(Null)
    actors = [actor.options(num_cpus=cpus).remote() for _ in range(count)]
    ray.get([each.run.remote() for each in actors])
    return actors


def wait_loop_rate(actors: list[Any], calls: int) -> float:
    """Return calls per second of the plainest driver: one `ray.wait`, one `ray.get`, one new call, again."""
    under_way = {actor.run.remote(): actor for actor in actors}
    done, start = 0, time.perf_counter()
    while done < calls:
        ready, _ = ray.wait(list(under_way))
        ray.get(ready)
        for ref in ready:
            actor = under_way.pop(ref)
            under_way[actor.run.remote()] = actor
            done += 1
    seconds = time.perf_counter() - start
    ray.get(list(under_way))
    return done / seconds


def round_trip_rate(actor: Any, calls: int) -> float:
    """Return round trips per second with a single actor: call, get, call again."""
    start = time.perf_counter()
    for _ in range(calls):
        ray.get(actor.run.remote())
    return calls / (time.perf_counter() - start)


def main() -> None:
    """Print both rates for a local Ray."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--calls", type=int, default=5000)
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=arguments.actors, include_dashboard=False, log_to_driver=False)
    actors = null_actors(arguments.actors)
    print(f"ray.wait loop over {arguments.actors} actors: {wait_loop_rate(actors, arguments.calls):.0f} calls/s")
    print(f"one actor, one call at a time: {round_trip_rate(actors[0], arguments.calls):.0f} calls/s")
    ray.shutdown()


if __name__ == "__main__":
    main()
