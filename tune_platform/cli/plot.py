"""`plot`: one figure of an experiment as a file, or which figures there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tune_platform.cli.common import experiment_argument, load, offer, pairs, parse_value, storage_option, talk
from tune_platform.cli.format import table, width
from tune_platform.errors import SpecError


def _figures(given: Mapping[str, Any]) -> Sequence[str]:
    from tune_platform.plots import FIGURES

    return list(FIGURES)


@click.command()
@experiment_argument
@click.argument("figure", required=False, shell_complete=offer(_figures))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="A .html (plotly.js inside), .png or .svg.  [default: EXPERIMENT-FIGURE.html]")  # fmt: skip
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="An option of the figure, such as top=5.")
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
@storage_option
def plot(
    experiment: str, figure: str | None, output: Path | None, options: tuple[str, ...], theme: str, storage: str | None
) -> None:
    """Draw a figure of an experiment; without FIGURE say which there are, and what each shows.

    \b
    Example: tune-platform plot digits curves --set top=5 --set bands=true -o curves.svg
    """
    from tune_platform.plots import FIGURES, View, find
    from tune_platform.plots.report import write_figure

    if figure is not None:
        find(figure)
    view = View.of(load(experiment, storage))
    if figure is None:
        rows = [(name, kind.title, kind.summary(view)) for name, kind in FIGURES.items()]
        click.echo(table(("figure", "title", "what it shows here"), rows, width()))
        return
    kind = find(figure)
    given = {key: parse_value(value) for key, value in pairs(options, "--set").items()}
    try:
        drawn = kind.draw(view, theme=theme, **given)
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise SpecError(f"--set: the figure {figure} has no such option: {', '.join(given)}") from None
    path = output or Path(f"{view.name}-{figure}.html")
    write_figure(drawn, path)
    talk(kind.summary(view))
    click.echo(str(path))
