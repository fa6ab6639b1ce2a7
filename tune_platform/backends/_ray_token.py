"""The token by which a Ray knows who may join it, and run what they like in it.

Ray keeps one for each user, in `~/.ray/auth_token`. Since 2.60 it asks for it in every Ray that `ray.init` starts; the
platform has earlier versions do so too, and has only the user read the file.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import ray

_MODE, _TOKEN, _PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_set: list[str] = []  # variables that were set here, and not by the user


def want_token(*, named: bool = False) -> None:
    """Have this process, and the Ray that it starts, use the token, unless `RAY_AUTH_MODE` says what to do.

    A Ray whose address somebody has `named` may be a foreign one: it is not shown the token unless that says so.
    """
    if _MODE not in os.environ and not named:
        _put(_MODE, "token")
        ray._raylet.Config.initialize("")  # it keeps what it has read


def make_token() -> None:
    """See that there is a token, which only this user can read: the one of this process where none can be kept."""
    if os.environ.get(_TOKEN) or os.environ.get(_PATH):
        return
    file = Path.home() / ".ray" / "auth_token"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch(0o600, exist_ok=False)
            file.write_text(secrets.token_hex(32))
        elif file.stat().st_mode & 0o077:
            file.chmod(0o600)
    except OSError:  # a home that cannot be written, or a process beside this one that has just made it
        if not file.is_file():
            _put(_TOKEN, secrets.token_hex(32))
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def forget_token() -> None:
    """Undo both: what this process connects to next may be a foreign Ray, which is not shown the token."""
    if _set:
        while _set:
            os.environ.pop(_set.pop(), None)
        ray._raylet.Config.initialize("")
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _put(name: str, value: str) -> None:
    os.environ[name] = value
    _set.append(name)
