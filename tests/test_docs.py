"""Everything that README and docs tell a reader to run is run: in order, page by page.

Each in a fresh folder, and those that write modules of their own in a checkout of the repository too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\A# file: (\S+)\n")
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")


#: Has Python see a checkout as `uv run` in it does, by way of an editable installation: behind all that is installed.
BEHIND = """\
import sys
sys.path[:] = [entry for entry in sys.path if entry not in ({root!r}, {hook!r})] + [{checkout!r}]
"""
#: What is copied of the repository: all that a page can name.
PARTS = ("tune_platform", "searchers", "trainables", "benchmarks", "examples", "tests/__init__.py", "pyproject.toml")


def checkout(tmp_path: Path) -> Path:
    """Return a copy of the repository, which Python finds where an editable installation would put it."""
    folder, hook = tmp_path / "checkout", tmp_path / "hook"
    folder.mkdir()
    hook.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "tune_results"))
        elif (ROOT / part).exists():
            (folder / part).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / part, folder / part)
    text = BEHIND.format(root=str(ROOT), hook=str(hook), checkout=str(folder))
    (hook / "sitecustomize.py").write_text(text)
    return folder


def elsewhere(tmp_path: Path) -> Path:
    """Return a folder of somebody's own, with what the pages take from the repository."""
    for name in ("examples", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    env = dict(os.environ)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["TUNE_PLATFORM_STORAGE"] = str(folder / "tune_results")
    hook = folder.parent / "hook"
    env["PYTHONPATH"] = str(hook if hook.exists() else ROOT)
    env["TUNE_PLATFORM_TRIALS"] = "8"  # where a command does not say how many: the first one takes two minutes with 64
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
@pytest.mark.parametrize(
    ("page", "place"),
    [(page, elsewhere) for page in PAGES if page.stem != "tutorial"]  # see test_tutorial and test_packaging
    + [(page, checkout) for page in PAGES if "# file:" in page.read_text() and page.stem != "tutorial"],
    ids=lambda one: one.stem if isinstance(one, Path) else one.__name__,
)
def test_every_block_runs(page: Path, place: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = place(tmp_path)
    for number, (language, text) in enumerate(BLOCK.findall(page.read_text())):
        named = FILE.match(text)
        if named:
            (folder / named[1]).write_text(text)
        elif language == "python":
            script = folder / f"block_{number}.py"
            script.write_text(text)
            run([sys.executable, script.name], folder)
        elif language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                command = command_of(line)
                if command and not command.startswith("#"):
                    run(["bash", "-euc", command], folder)
        elif language == "yaml":
            check_spec(text, folder / f"block_{number}.yaml")


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
