"""How large an installation is: the core, and the core with each extra, in a fresh environment each.

python -m benchmarks.install_size                 # all of them, from uv's cache: a minute or two
python -m benchmarks.install_size core parquet
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def uv(*words: str) -> None:
    """Run uv. Raises CalledProcessError where it fails."""
    subprocess.run(["uv", *words], cwd=ROOT, check=True, stdout=sys.stderr)


def megabytes(folder: Path) -> float:
    """Return how large the files below `folder` are together."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Build the wheel, install it, measure."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extra", nargs="*", help=f"core, {', '.join(extras)}  [default: all of them]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uv("build", "--quiet", "--wheel", "--out-dir", folder)
        (wheel,) = Path(folder).glob("*.whl")
        for extra in arguments.extra or ["core", *extras]:
            with tempfile.TemporaryDirectory() as venv:
                uv("venv", "--quiet", "--clear", "--python", sys.executable, venv)
                what = str(wheel) if extra == "core" else f"{wheel}[{extra}]"
                uv("pip", "install", "--quiet", "--python", venv, what)
                print(f"{extra:<16} {megabytes(Path(venv)):7,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
