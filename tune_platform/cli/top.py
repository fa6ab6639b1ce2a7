"""`top`: what a cluster has, who holds it, and why trials wait."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tune_platform.cli.common import json_option, print_json, talk
from tune_platform.cli.format import table, width
from tune_platform.progress.text import size

if TYPE_CHECKING:
    from tune_platform.cluster.standing import Node

#: Seconds for the cluster to answer.
_ANSWERS_WITHIN = 15.0


@click.command()
@click.option("--address", metavar="HOST:PORT", help="Of the head node.  [default: $RAY_ADDRESS, else what runs here]")
@json_option
def top(address: str | None, as_json: bool) -> None:
    """Show the nodes of a cluster, the searches that share it, and why their trials wait.

    Searches whose trials hold different resources take no part in the sharing, and are not listed.

    \b
    Example: tune-platform top --address 10.0.0.5:6379
    """
    from tune_platform.cluster.standing import look

    nodes, searches = look(address, _ANSWERS_WITHIN)
    if as_json:
        print_json({"nodes": [asdict(node) for node in nodes], "searches": [asdict(search) for search in searches]})
        return
    rows = [[node.address, _of(node, "CPU"), _of(node, "GPU"), _of(node, "memory")] for node in nodes]
    click.echo(table(("node", "CPUs", "GPUs", "memory"), rows))
    if not searches:
        talk("no search runs there")
        return
    lines = [[s.experiment, s.who, str(s.runs), str(s.waits), s.holds, s.why] for s in searches]
    click.echo("\n" + table(("experiment", "who", "running", "wanted", "each holds", "why it waits"), lines, width()))


def _of(node: Node, name: str) -> str:
    """Return "1 of 4"."""
    has, taken = node.has.get(name, 0.0), node.taken.get(name, 0.0)
    if not has:
        return "-"
    return f"{size(taken)} of {size(has)}" if name == "memory" else f"{taken:g} of {has:g}"
