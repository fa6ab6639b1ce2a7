"""The connection to Ray, and what its nodes have."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from tune_platform.backends._ray_placement import amounts_of
from tune_platform.errors import ExperimentError


def connect(address: str | None, arguments: Mapping[str, Any]) -> bool:
    """Connect this process to Ray, or start one; False where it is connected already. Raises ExperimentError."""
    if ray.is_initialized():
        return False
    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    defaults = {"log_to_driver": False, "include_dashboard": False, "logging_level": logging.ERROR}
    # Ray reads the variable when it is first imported, which may have been before `ray.py` set it.
    uses_uv = os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] not in ("0", "false")
    ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = uses_uv
    names = {"namespace": f"tune-platform-{os.getpid()}-{time.time_ns():x}"}
    try:
        with _own_sigterm():
            ray.init(address=address, **{**defaults, **names, **arguments})
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"at {address!r}" if address not in (None, "local") else "on this machine"
        raise ExperimentError(f"cannot connect to or start Ray {where}: {error}") from error
    finally:
        if before is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
    return True


def is_own() -> bool:
    """Whether this process has started the Ray that it uses, on this machine."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does at SIGTERM: `ray.init` would have it exit at once, and nothing would be saved."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def look_up_nodes(node_ids: list[str]) -> tuple[dict[str, float], ...]:
    """Return what each node has now; `node_ids`, which names them by their place, is added to.

    The place of a node that is gone stays, empty: trials and leases name nodes by their place.
    """
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    node_ids += [node for node in alive if node not in node_ids]
    return tuple(amounts_of(alive.get(node, {})) for node in node_ids)
