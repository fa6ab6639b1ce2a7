"""Which Ray to use, and whether this process could join it: found out before Ray's own client waits for it."""

from __future__ import annotations

import logging

from ray._private import services

from tune_platform.backends._ray_token import want_token
from tune_platform.cluster.address import ENVIRONMENT, Address, ask_ray, note_of_ray
from tune_platform.errors import ExperimentError

logger = logging.getLogger(__name__)

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
        if ask_ray(address, seconds).guarded:
            want_token(named=address.named not in ("", "auto"))
    except (ConnectionError, ExperimentError) as error:
        if address.named:
            silent = isinstance(error, ConnectionError)
            raise ExperimentError(
                f"no Ray can be joined at {address}: {error}. {_IS_IT_UP if silent else ''}"
                f"To start a Ray on this machine: {instead(address)}"
            ) from None
        logger.warning(
            "the Ray at %s, which %s tells of, is passed over: %s; a Ray is started for this search",
            address,
            note_of_ray(),
            error,
        )
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
