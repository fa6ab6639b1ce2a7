"""Addresses of Ray: which forms there are, who has named one, and whether this process could join what is there.

Also the values of the Ray backend's other options: a spec is read without Ray.

Ray itself tries a dead address for minutes, deaf to Ctrl-C; so each is tried here first. Nothing here imports Ray.
"""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tune_platform.errors import ExperimentError, SpecError

ENVIRONMENT = "RAY_ADDRESS"
#: Seconds for a connection to be accepted. A machine that is there does so in milliseconds, also far away.
ACCEPTED_WITHIN = 5.0
#: Seconds for a process to import Ray, on a machine that has much to do.
_IMPORTED_WITHIN = 60.0

_ALLOWED = "host:port of a cluster's head node, such as 10.0.0.5:6379; auto (the cluster that runs here); local"


class Address(NamedTuple):
    """`text` is host:port, "auto" or "local". `named` says who has named it; empty where Ray has only noted it."""

    text: str
    named: str = ""

    def __str__(self) -> str:
        return f"{self.text} (from {self.named})" if self.named else self.text


def check_address(text: object, named: str = "address") -> str:
    """Return an address that a driver can use. Raises SpecError for any other."""
    if not isinstance(text, str):
        raise SpecError(f"{named}: got {text!r}; allowed: {_ALLOWED}")
    found = text.strip()
    if found in ("auto", "local"):
        return found
    scheme, slashes, rest = found.rpartition("://")
    if scheme == "ray":
        raise SpecError(
            f"{named}: got {text!r}, an address for Ray's client, which runs no searches; start the driver on a node "
            f"of the cluster and name {rest.partition(':')[0]}:6379, or whatever port its head node has"
        )
    if slashes:
        raise SpecError(f"{named}: got {text!r}; an address has no {scheme}://; allowed: {_ALLOWED}")
    host, colon, port = found.rpartition(":")
    if not colon:
        raise SpecError(f"{named}: got {text!r}, which has no port; allowed: {_ALLOWED}")
    if not re.fullmatch(r"[\w.-]+|\[[0-9A-Fa-f:.%\w]+\]", host):
        raise SpecError(f"{named}: got {text!r}, whose host is none; allowed: {_ALLOWED}")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise SpecError(f"{named}: got {text!r}, whose port is no number from 1 to 65535; allowed: {_ALLOWED}")
    return found


def find_address(given: str | None, folder: str | None = None) -> Address:
    """Return the address to use, as Ray would choose it.

    `given` wins, unless it is None or "auto" and RAY_ADDRESS is set; then comes what `ray start` has noted in `folder`
    (default: Ray's own for temporary files); else a Ray is to be started. Raises SpecError for what is no address.
    """
    if given is not None and given != "auto":
        return Address(check_address(given, "backend.address"), "backend.address")
    if text := os.environ.get(ENVIRONMENT, "").strip():
        return Address(check_address(text, ENVIRONMENT), ENVIRONMENT)
    if given == "auto":
        return Address("auto", "backend.address")
    return Address(noted_address(folder) or "local")


def noted_address(folder: str | None = None) -> str:
    """Return what `ray start` has noted on this machine, which may have died since; empty where there is nothing."""
    try:
        return note_of_ray(folder).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def note_of_ray(folder: str | None = None) -> Path:
    """Return the file in which `ray start` notes the address of the cluster that it has started or joined."""
    if folder is None:
        temporary = os.environ.get("TMPDIR") if sys.platform == "linux" else None
        folder = f"{os.environ.get('RAY_TMPDIR') or temporary or _temporary()}/ray"
    return Path(folder) / "ray_current_cluster"


def _temporary() -> str:
    return "/tmp" if os.name == "posix" else tempfile.gettempdir()


def await_listener(text: str, seconds: float = ACCEPTED_WITHIN) -> None:
    """Return once something accepts a connection at host:port. Raises ConnectionError, with the reason, if not.

    May be interrupted by a signal, but for the look-up of a name.
    """
    host, _, port = text.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds):
            return
    except TimeoutError:
        reason = f"no connection within {seconds:g} s"
    except socket.gaierror as error:
        reason = f"the host is not known ({error.strerror})"
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    raise ConnectionError(reason)


class Answer(NamedTuple):
    """Of a Ray that this process could join. `guarded`: only who shows its token may join it."""

    guarded: bool


def ask_ray(address: Address, seconds: float) -> Answer:
    """Ask the Ray at an address of host:port whether this process could join it, within so many seconds.

    Raises ConnectionError where none answers, and ExperimentError with the reason where it says no.
    """
    await_listener(address.text, min(seconds, ACCEPTED_WITHIN))
    found = "0" if address.named not in ("", "auto") else "1"
    command = [sys.executable, "-P", str(Path(__file__).with_name("ray_probe.py")), address.text, str(seconds), found]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_IMPORTED_WITHIN + seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ExperimentError(f"it could not be asked within {_IMPORTED_WITHIN + seconds:g} s") from None
    if done.returncode == -signal.SIGALRM:
        raise ConnectionError(f"something listens there, but gives no answer of a Ray within {seconds:g} s")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ExperimentError(f"Ray's client ended with code {done.returncode}: {last}")
    entry, _, said = done.stdout.partition("\n")
    if said.strip():
        raise ExperimentError(reason(said.strip()))
    return Answer(guarded=entry == "guarded")


def reason(said: str) -> str:
    """Return in our words why Ray lets a process not in, where that is known."""
    if "InvalidAuthToken" in said or "AuthenticationError" in said or "authentication token" in said:
        return (
            "it wants a token, and this process shows none or another one: set RAY_AUTH_MODE=token, and put the "
            "cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token"
        )
    if "Version mismatch" in said:
        return f"{said[said.index('Version mismatch') :].rstrip('.')}. Both sides need the same"
    return said


def check_options(options: Mapping[str, Any]) -> None:
    """Raise SpecError for values that the Ray backend does not take; those that are not there are not looked at."""
    for name in ("grace_s", "idle_s", "refresh_s", "connect_s"):
        if name in options and not (_is_number(options[name]) and 0 <= options[name] < math.inf):
            raise SpecError(f"{name}: got {options[name]!r}; a number of seconds is wanted, at least 0")
    autoscale = options.get("autoscale", False)
    if not isinstance(autoscale, bool) and (not isinstance(autoscale, int) or autoscale < 1):
        raise SpecError(f"autoscale: got {autoscale!r}; true, false, or the number of trials that are asked for")
    weight = options.get("weight", 1)
    if not _is_number(weight) or not 0 < weight < math.inf:
        raise SpecError(f"weight: got {weight!r}; a number above 0 is wanted: 2 has twice the share of 1")
    priority = options.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise SpecError(f"priority: got {priority!r}; a whole number is wanted: 0 for most, more for who goes first")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
