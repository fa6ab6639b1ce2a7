"""Which Ray to use, and whether this process could join it: found out before Ray's own client waits for it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

from ray._private import services

from tune_platform.backends._ray_token import forget_token, has_token, want_token
from tune_platform.cluster.address import ACCEPTED_WITHIN, ENVIRONMENT, Address, await_listener, note_of_ray
from tune_platform.errors import ExperimentError

logger = logging.getLogger(__name__)

#: Seconds for a process to import Ray, on a machine that has much to do.
_IMPORTED_WITHIN = 60.0

_IS_IT_UP = "Is the cluster up, and its head node at this address (port 6379 unless it was started with another)? "


def usable(address: Address, seconds: float) -> Address:
    """Return the address if a Ray answers there that this process can join, "local" where one only noted does not.

    Raises ExperimentError, with the reason and a way out, for one that somebody has named.
    """
    if address.text == "local":
        return address
    try:
        if address.text == "auto":
            address = Address(_running_here(), "auto")
        if address.named in ("", "auto") and has_token():
            want_token()  # as Ray does for a cluster that it has found itself; a foreign one is not shown the token
        await_listener(address.text, min(seconds, ACCEPTED_WITHIN))
        _ask(address.text, seconds)
    except (ConnectionError, ExperimentError) as error:
        if address.named:
            silent = isinstance(error, ConnectionError)
            raise ExperimentError(
                f"no Ray can be joined at {address}: {error}. {_IS_IT_UP if silent else ''}"
                f"To start a Ray on this machine: {instead(address)}"
            ) from None
        logger.warning(
            "the Ray at %s, which %s tells of, is passed over: %s; a Ray is started for this search", address,
            note_of_ray(), error,
        )  # fmt: skip
        forget_token()
        return Address("local")
    return address


def instead(address: Address) -> str:
    """Return what is to be done so that a Ray is started instead."""
    return f"unset {ENVIRONMENT}" if address.named == ENVIRONMENT else "backend.address: local"


def _running_here() -> str:
    """Return the address of a cluster that this machine is in. Raises ConnectionError."""
    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError:
        raise ConnectionError("no Ray runs on this machine") from None


def _ask(text: str, seconds: float) -> None:
    """Return once a Ray at host:port has said that this process could join.

    Raises ConnectionError where nothing answers, and ExperimentError with the reason where Ray says no.
    """
    program = str(Path(__file__).with_name("_ray_probe.py"))
    command = [sys.executable, "-P", program, text, str(seconds)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_IMPORTED_WITHIN + seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ExperimentError(f"it could not be asked within {_IMPORTED_WITHIN + seconds:g} s") from None
    if done.returncode == -signal.SIGALRM:
        raise ConnectionError(f"something listens there, but gives no answer of a Ray within {seconds:g} s")
    said = done.stdout.strip()
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ExperimentError(f"Ray's client ended with code {done.returncode}: {last}")
    if said:
        raise ExperimentError(reason(said))


def reason(said: str) -> str:
    """Return in our words what Ray said, where that is known."""
    if "InvalidAuthToken" in said or "AuthenticationError" in said or "authentication token" in said:
        return (
            "it wants a token, and this process shows none or another one: set RAY_AUTH_MODE=token, and put the "
            "cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if "Version mismatch" in said:
        return f"{said[said.index('Version mismatch') :].rstrip('.')}. Both sides need the same"
    return said
