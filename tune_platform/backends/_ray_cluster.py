"""The way to Ray: an address is tried, then this process joins what is there, or starts one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants

from tune_platform.backends._ray_connection import Connection
from tune_platform.backends._ray_reach import instead, usable
from tune_platform.backends._ray_token import make_token, want_token
from tune_platform.cluster.address import find_address, reason
from tune_platform.errors import ExperimentError, SpecError

logger = logging.getLogger(__name__)

#: Seconds for a Ray that has answered to take this process in.
JOINED_WITHIN = 30.0
#: Seconds for a Ray to start on this machine.
STARTED_WITHIN = 300.0
#: Arguments of `ray.init` that make sense only for a Ray that it starts.
_OF_A_NEW_ONE = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")


def connect(given: str | None, arguments: Mapping[str, Any], seconds: float) -> Connection | None:
    """Connect this process to Ray, or start one; None where it is connected already.

    An address is tried first: one that somebody has named has `seconds` to answer, and one that Ray has only noted is
    passed over where it does not. Raises ExperimentError, and SpecError for an address that is none.
    """
    Connection.await_last(JOINED_WITHIN)
    if ray.is_initialized():
        return None
    address = usable(find_address(given, arguments.get("_temp_dir")), seconds)
    defaults = {"log_to_driver": False, "include_dashboard": False, "logging_level": logging.ERROR}
    names = {"namespace": f"tune-platform-{os.getpid()}-{time.time_ns():x}"}
    everything = {"address": address.text, **defaults, **names, **arguments}
    with _environment(own=address.text == "local" and "_node_ip_address" not in arguments):
        if address.text == "local":
            return _open(everything, STARTED_WITHIN, "a Ray could not be started on this machine")
        for name in _OF_A_NEW_ONE:
            if arguments.get(name) is not None:
                raise SpecError(
                    f"backend.{name}: got {arguments[name]!r}, but the Ray at {address} has what it has; leave it "
                    f"out, or start one on this machine: {instead(address)}"
                )
        return _open(everything, JOINED_WITHIN, f"the Ray at {address} could not be joined")


def is_own() -> bool:
    """Whether this process has started the Ray that it uses, on this machine."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


def _open(arguments: Mapping[str, Any], seconds: float, failed: str) -> Connection:
    try:
        return Connection.open(arguments, seconds)
    except TimeoutError:
        joined = arguments["address"] != "local"
        more = ": is this machine one of its nodes? A driver must run on one" if joined else ""
        raise ExperimentError(f"{failed} within {seconds:g} s{more}") from None
    except Exception as error:
        raise ExperimentError(f"{failed}: {reason(_causes(error))}") from error


def _causes(error: BaseException) -> str:
    """Return what an error says, and what has caused it: Ray hides there what is wrong."""
    said: list[str] = []
    each: BaseException | None = error
    while each is not None:
        text = " ".join(str(each).split()) or type(each).__name__
        if not any(text in earlier for earlier in said):
            said.append(text)
        each = each.__cause__
    return "; ".join(said)


@contextmanager
def _environment(*, own: bool) -> Iterator[None]:
    """Set what Ray takes from the environment and from its constants. `own`: a Ray of this machine alone is started."""
    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray reads the variable when it is first imported, which may have been before `ray.py` set it.
    uses_uv = os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] not in ("0", "false")
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = uses_uv
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    if own:
        want_token()
        if os.environ["RAY_AUTH_MODE"].lower() == "token":
            make_token()
        ray_constants.ENABLE_RAY_CLUSTER = False  # then it listens on the loopback interface only
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        if before is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
