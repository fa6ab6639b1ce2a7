"""What a user gets: the wheel, built from the checkout and from the source distribution, installed by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UV = shutil.which("uv")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(UV is None, reason="uv is not here")]
CODE = """\
import tune_platform, tune_platform.searchers, tune_platform.trainables.digits, tune_platform.trainables.strategies
from tune_platform.spec import load_entrypoint
print(tune_platform.__file__)
print(load_entrypoint("trainables.digits:DigitsTrainable").__module__)
import importlib.util
print([name for name in ("searchers", "trainables") if importlib.util.find_spec(name)])
"""


def build(*arguments: str) -> None:
    done = subprocess.run([str(UV), "build", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def sources(folder: str) -> set[str]:
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(ROOT)) for path in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build("--wheel", "--out-dir", str(folder))
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_has_everything_inside_the_package(wheel: Path) -> None:
    inside = {f"tune_platform/{name}" for name in sources("searchers") | sources("trainables")}
    assert names_in(wheel) == sources("tune_platform") | inside
    assert "tune_platform/py.typed" in names_in(wheel)


def test_a_wheel_built_from_the_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    build("--out-dir", str(tmp_path))  # the wheel from the sdist
    (again,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert names_in(again) == names_in(wheel)
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]


def test_the_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=120)
    (packages,) = (home / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # What it depends on comes from this environment; its own .pth file, which leads to the checkout, does not count.
    others = [path for path in sys.path if path.endswith("site-packages")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(others)}
    done = subprocess.run(
        [str(home / "bin/python"), "-c", CODE], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    file, module, top = done.stdout.splitlines()
    assert Path(file).is_relative_to(packages)
    assert (module, top) == ("tune_platform.trainables.digits", "[]")
