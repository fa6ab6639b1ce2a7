"""The token by which a Ray knows who may join it, and run what they like in it.

Ray keeps one for each user, in `~/.ray/auth_token`. Since 2.60 it asks for it in every Ray that `ray.init` starts; the
platform has earlier versions do so too.
"""

from __future__ import annotations

import os

import ray

_MODE = "RAY_AUTH_MODE"
_set: list[bool] = []  # where it was set here, and not by the user


def has_token() -> bool:
    """Whether this user has a token of Ray's."""
    return bool(ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def want_token() -> None:
    """Have this process, and the Ray that it starts, use the token, unless `RAY_AUTH_MODE` says what to do."""
    if _MODE not in os.environ:
        os.environ[_MODE] = "token"
        _set.append(True)
        ray._raylet.Config.initialize("")  # it keeps what it has read


def forget_token() -> None:
    """Undo that: what this process connects to next may be a foreign Ray, which is not shown the token."""
    if _set:
        _set.clear()
        os.environ.pop(_MODE, None)
        ray._raylet.Config.initialize("")
