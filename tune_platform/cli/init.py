"""`init`: an example to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

import click

from tune_platform.cli.common import talk
from tune_platform.errors import SpecError
from tune_platform.extras import is_installed

TEMPLATES = Path(__file__).parent.parent / "templates"


class Needs(NamedTuple):
    """The modules that an example imports, and what brings them."""

    modules: tuple[str, ...]
    install: str


EXAMPLES = {
    "digits": Needs(("torch", "sklearn"), "pip install 'tune-platform[examples]'"),
    "xgboost": Needs(("xgboost",), "pip install xgboost"),
    "lightning": Needs(("lightning", "torch"), "pip install lightning"),
}


@click.command()
@click.argument("example", type=click.Choice(list(EXAMPLES)), default="digits")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=".", help="[default: this one]")
def init(example: str, folder: Path) -> None:
    """Write an example to start from: training code and a spec.

    EXAMPLE is digits (torch), xgboost or lightning. Nothing is overwritten.

    \b
    Example: tune-platform init xgboost --folder trees
    """
    files = sorted(path for path in (TEMPLATES / example).iterdir() if path.suffix in (".py", ".yaml"))
    there = [str(folder / path.name) for path in files if (folder / path.name).exists()]
    if there:
        raise SpecError(f"{' and '.join(there)}: exists already, and is not overwritten; give another --folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise SpecError(f"the example cannot be written to {folder}: {error.strerror or error}") from error
    for path in files:
        click.echo(folder / path.name)
    talk("next:")
    for command in _next(example, folder):
        talk(f"  {command}")


def _next(example: str, folder: Path) -> list[str]:
    needs, commands = EXAMPLES[example], []
    if not all(is_installed(module) for module in needs.modules):
        commands.append(needs.install)
    if folder.resolve() != Path.cwd():
        commands.append(shlex.join(["cd", str(folder)]))
    spec = f"{example}.yaml"
    return [
        *commands,
        f"tune-platform check {spec}",
        f"tune-platform run {spec}",
        f"tune-platform best {example} --as python",
    ]
