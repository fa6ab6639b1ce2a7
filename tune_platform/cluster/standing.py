"""What a cluster has at the moment, and which searches hold how much of it: from Ray, and from the drivers' notes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tune_platform.cluster.address import ask_ray, find_address
from tune_platform.errors import ExperimentError

Quotas = Mapping[str, Mapping[str, float]]  # amounts by resource, by user


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node: its address, and of each resource how much is taken and how much there is."""

    address: str
    taken: Mapping[str, float]
    has: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search that shares the cluster: of how many trials it runs and waits, what each holds, and why they wait."""

    experiment: str
    who: str
    runs: int
    waits: int
    holds: str
    why: str


def nodes_of(found: Sequence[Mapping[str, Any]], free: Mapping[str, Mapping[str, float]]) -> list[Node]:
    """Return the living nodes from Ray's list of nodes, and from what is free on each by its id."""
    nodes = []
    for node in found:
        if not node["Alive"]:
            continue
        has = {name: node["Resources"].get(name, 0.0) for name in ("CPU", "GPU", "memory") if name in node["Resources"]}
        left = free.get(node["NodeID"], {})
        taken = {name: max(0.0, amount - left.get(name, 0.0)) for name, amount in has.items()}
        nodes.append(Node(address=node["NodeManagerAddress"], taken=taken, has=has))
    return sorted(nodes, key=lambda node: node.address)


def searches_of(notes: Mapping[str, str]) -> list[Search]:
    """Return the searches that have left these notes, the oldest first; one of an older release says little."""
    found = []
    for name in sorted(notes):
        note = json.loads(notes[name]).get("about", {})
        runs, waits, places = note.get("runs", 0), note.get("waits", 0), note.get("places")
        why = ""
        if waits and note.get("most") is not None and runs >= note["most"]:
            why = f"budget.concurrency: {note['most']:g} at a time"
        elif waits and places is not None and runs >= places:
            why = note.get("why") or f"its share: {places:g} places of the cluster"
        elif waits:
            why = "no node has room for it"
        found.append(
            Search(
                experiment=note.get("experiment", "?"), who=note.get("who", "?"), runs=runs, waits=waits,
                holds=note.get("holds", "?"), why=why,
            )
        )  # fmt: skip
    return found


@contextmanager
def joined(address: str | None, seconds: float) -> Iterator[None]:
    """Join the cluster for a moment. Raises ExperimentError where there is none, or it cannot be joined."""
    place = find_address(address)
    if place.text == address:
        place = place._replace(named="--address")
    if place.text == "local":
        raise ExperimentError("no Ray runs on this machine: give its --address, or set RAY_ADDRESS")
    try:
        if ask_ray(place, seconds).guarded and place.named in ("", "auto"):
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # a foreign one is not shown it
    except ConnectionError as error:
        raise ExperimentError(f"no Ray can be joined at {place}: {error}") from None
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else Ray packs up this folder, for nobody
    import ray

    ray.init(address=place.text, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


def look(address: str | None, seconds: float) -> tuple[list[Node], list[Search]]:
    """Join the cluster for a moment and look. Raises ExperimentError where there is none, or it cannot be joined."""
    with joined(address, seconds):
        import ray
        from ray._private.state import available_resources_per_node

        from tune_platform.cluster.ray_board import RayBoard

        board = RayBoard()
        notes = board.read()
        alive = board.alive(list(notes))
        nodes = nodes_of(ray.nodes(), available_resources_per_node())
        return nodes, searches_of({name: note for name, note in notes.items() if name in alive})


def quotas(address: str | None, seconds: float, user: str = "", quota: Mapping[str, float] | None = None) -> Quotas:
    """Join the cluster for a moment, set the quota of a user where one is given, and return those of all.

    Raises ExperimentError where there is none, or it cannot be joined.
    """
    with joined(address, seconds):
        from tune_platform.cluster.ray_board import RayBoard

        board = RayBoard()
        if quota is not None:
            board.set_quota(user, quota)
        return board.quotas()
