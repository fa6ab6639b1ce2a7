"""The picture of the README: what `tune-platform run examples/digits.yaml` shows on a terminal while it runs.

    python -m benchmarks.terminal

runs the search with the platform's own display, drawn by rich, and writes `docs/figures/terminal.svg` once some two
thirds of the trials are done. The fonts are those of whoever looks: nothing is fetched from anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

from tune_platform.progress.live import Live
from tune_platform.progress.standing import Standing

ROOT = Path(__file__).parent.parent
SPEC, PICTURE = ROOT / "examples" / "digits.yaml", ROOT / "docs" / "figures" / "terminal.svg"
COMMAND = "tune-platform run examples/digits.yaml"
COLUMNS = 100
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def screen() -> Console:
    """Return a console that remembers what was printed on it, beginning with the command."""
    console = Console(
        file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(f"[bold green]$[/] {COMMAND}")
    return console


def svg(console: Console) -> str:
    """Return what a console remembers as SVG, in the fonts of whoever looks."""
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    template = template.replace("font-family: Fira Code, monospace", f"font-family: {FONTS}")
    picture = console.export_svg(title="", theme=MONOKAI, code_format=template, unique_id="terminal")
    return "\n".join(line.rstrip() for line in picture.splitlines()) + "\n"


class Camera:
    """A listener that draws as the live region does, and takes one picture when `part` of the trials are done."""

    def __init__(self, name: str, part: float) -> None:
        self.console = screen()
        self.standing = Standing(name)
        self.picture = ""
        self._part = part
        self._live = Live(self.standing, self.console)

    def __call__(self, run: Any, events: Sequence[Any], effects: Sequence[Any]) -> None:
        """Look at one turn."""
        if self.picture:
            return
        self._live(run, events, effects)
        if self.standing.done >= self._part * self.standing.trials:
            self.console.print(self._live)
            self.picture = svg(self.console)

    def leave(self, run: Any, events: Sequence[Any], effects: Sequence[Any]) -> None:
        """End the search at once, as Ctrl-C twice does, when the picture is taken."""
        if self.picture:
            raise KeyboardInterrupt


def main() -> None:
    """Run the search and write the picture."""
    from tune_platform import run
    from tune_platform.spec import resolve

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, help="trials of the search  [default: those of the spec]")
    parser.add_argument("--cpus", type=float, default=4, help="CPUs that the local Ray is told of  [default: 4]")
    options = parser.parse_args()
    changes = {"backend": {"name": "ray", "address": "local", "num_cpus": options.cpus}}
    with tempfile.TemporaryDirectory() as storage:
        given = {**changes, "storage": storage} | ({"budget.trials": options.trials} if options.trials else {})
        spec, _ = resolve(SPEC, env={}, overrides=given)
        camera = Camera("digits", 0.66)
        with contextlib.suppress(KeyboardInterrupt):  # the rest of the search is not needed
            run(spec, name="digits", listeners=[camera, camera.leave])
    if not camera.picture:
        raise SystemExit("no picture: the search ended before")
    PICTURE.write_text(camera.picture, encoding="utf-8")
    print(f"{PICTURE}: {len(camera.picture)} bytes")


if __name__ == "__main__":
    main()
