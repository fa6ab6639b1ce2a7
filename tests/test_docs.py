"""Everything that README and docs tell a reader to run is run: in order, page by page, each in a fresh folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\A# file: (\S+)\n")
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")


def environment(folder: Path) -> dict[str, str]:
    env = dict(os.environ)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["TUNE_PLATFORM_STORAGE"] = str(folder / "tune_results")
    env["PYTHONPATH"] = str(ROOT)
    env["RAY_ADDRESS"] = "local"  # not a cluster that something else on this machine has started
    return env


def command_of(line: str) -> str | None:
    """What a line of a bash block becomes here: this environment is set up already, and this is pytest."""
    line = line.strip()
    if line == "uv run pytest":
        return None
    return line.removeprefix("uv run ")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    for number, (language, text) in enumerate(BLOCK.findall(page.read_text())):
        named = FILE.match(text)
        if named:
            (tmp_path / named[1]).write_text(text)
        elif language == "python":
            script = tmp_path / f"block_{number}.py"
            script.write_text(text)
            run([sys.executable, script.name], tmp_path)
        elif language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                command = command_of(line)
                if command and not command.startswith("#"):
                    run(["bash", "-euc", command], tmp_path)
        elif language == "yaml":
            check_spec(text, tmp_path / f"block_{number}.yaml")


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def check_spec(text: str, path: Path) -> None:
    from tune_platform.spec import load_spec

    path.write_text(text)
    load_spec(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = [
        target
        for target, _ in LINK.findall(page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken
