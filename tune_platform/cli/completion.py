"""`completion`: the script that teaches a shell to complete commands, options and the names of experiments."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

#: The program, and the variable by which its script asks it for completions: click's own name for it.
PROGRAM, VARIABLE = "tune-platform", "_TUNE_PLATFORM_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script by which a shell completes commands, options and the names of experiments.

    \b
    Example: tune-platform completion bash >> ~/.bashrc
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, PROGRAM, VARIABLE).source())
