"""`quota`: how much of a cluster the searches of a user may hold together."""

from __future__ import annotations

import math

import click

from tune_platform.cli.common import json_option, print_json, talk
from tune_platform.cli.format import table

#: Seconds for the cluster to answer.
_ANSWERS_WITHIN = 15.0


@click.command()
@click.argument("user", required=False)
@click.argument("amounts", nargs=-1, metavar="[RESOURCE=AMOUNT]...")
@click.option("--clear", is_flag=True, help="Take the user's quota away.")
@click.option("--address", metavar="HOST:PORT", help="Of the head node.  [default: $RAY_ADDRESS, else what runs here]")
@json_option
def quota(user: str | None, amounts: tuple[str, ...], clear: bool, address: str | None, as_json: bool) -> None:
    """Show, or set, how much of a cluster the searches of USER may hold together.

    USER everybody stands for all who have no quota of their own. A running search gives what is beyond back as its
    trials end.

    \b
    Example: tune-platform quota ada gpu=2 cpu=16
    """
    from tune_platform.cluster.standing import quotas

    given = _read(amounts)
    if user is None or (given is None and not clear):
        found = quotas(address, _ANSWERS_WITHIN)
        found = {name: held for name, held in found.items() if user in (None, name)}
    elif given is not None and clear:
        raise click.UsageError("--clear takes the quota away: give either that or amounts")
    else:
        found = quotas(address, _ANSWERS_WITHIN, user, given or {})
    if as_json:
        print_json(found)
    elif not found:
        talk("there are no quotas" if user is None else f"{user} has no quota")
    else:
        rows = [[name, ", ".join(f"{amount:g} {key}" for key, amount in found[name].items())] for name in sorted(found)]
        click.echo(table(("user", "may hold"), rows))


def _read(amounts: tuple[str, ...]) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for text in amounts:
        name, _, value = text.partition("=")
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if not name or not 0 < amount < math.inf:
            raise click.UsageError(
                f"got {text!r}; a resource and a number above 0 are wanted, such as gpu=2. To take the quota away give "
                "--clear; what runs is ended by tune-platform stop"
            )
        found[name] = amount
    return found or None
