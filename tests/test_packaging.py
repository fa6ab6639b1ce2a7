"""What a user gets: the wheel, built from the checkout and from the source distribution, installed by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.test_tutorial import follow

ROOT = Path(__file__).parent.parent
UV = shutil.which("uv")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.skipif(UV is None, reason="uv is not here")]

#: Folders of the repository that are installed inside the package.
INSIDE = {"searchers": "searchers", "trainables": "trainables", "examples/init": "templates"}

TRAINING = """\
from tune_platform import report

def train(config):
    for step in range(1, 10):
        report({"loss": (config["x"] - 0.3) ** 2 + 1 / step})
"""
SPEC = """\
version: 1
name: line
entrypoint: training:train
objective: {metric: loss, mode: min}
space: {x: {type: float, low: 0.0, high: 1.0}}
search: {name: tpe, seed: 7}
schedule: {name: asha, max: 9}
budget: {trials: 12, concurrency: 2}
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


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def test_the_wheel_has_everything_inside_the_package(wheel: Path) -> None:
    inside = {
        f"tune_platform/{place}/{Path(name).relative_to(folder)}"
        for folder, place in INSIDE.items()
        for name in sources(folder)
    }
    assert names_in(wheel) == sources("tune_platform") | inside
    assert "tune_platform/py.typed" in names_in(wheel)


def test_the_metadata_says_what_it_is(wheel: Path, metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    with zipfile.ZipFile(wheel) as archive:
        (text,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert text.split()[:3] == ["Apache", "License", "Version"]
    for line in metadata.get_all("Project-URL", []):
        assert "example" not in line  # an address that leads nowhere is worse than none


def test_the_source_distribution_has_tracked_files_only_and_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no checkout")
    stray = [ROOT / "tune_results" / "it.csv", ROOT / "stray-results.csv"]
    try:
        for path in stray:
            path.parent.mkdir(exist_ok=True)
            path.touch()
        build("--out-dir", str(tmp_path))  # the wheel from the sdist
    finally:
        for path in stray:
            path.unlink(missing_ok=True)
    (again,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert names_in(again) == names_in(wheel)
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names - set(listed.stdout.splitlines()) == {"PKG-INFO"}
    assert names >= {"LICENSE", "README.md", "docs/install.md", "tests/test_packaging.py", "examples/digits.yaml"}


class Environment:
    """A fresh environment; packages come from uv's cache where it has them, as links."""

    def __init__(self, home: Path) -> None:
        self.home, self.work = home / "venv", home / "work"
        self.work.mkdir(parents=True)
        (self.work / "training.py").write_text(TRAINING)
        (self.work / "spec.yaml").write_text(SPEC)
        self._call([str(UV), "venv", "--quiet", str(self.home)])

    def install(self, *what: str) -> None:
        self._call([str(UV), "pip", "install", "--quiet", "--python", str(self.home), *what])

    def packages(self) -> set[str]:
        listed = self._call([str(UV), "pip", "list", "--format", "json", "--python", str(self.home)])
        return {each["name"] for each in json.loads(listed)}

    def python(self, code: str) -> str:
        (self.work / "script.py").write_text(code)
        return self._call(["python", "script.py"])

    def command(self, *words: str) -> str:
        return self._call(["tune-platform", *words])

    def shell(self, line: str) -> str:
        return self._call(["bash", "-euc", line])

    def _call(self, words: Sequence[str]) -> str:
        # Nothing of this environment, or of the checkout, is to be seen.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TUNE_", "VIRTUAL"))}
        env |= {"PATH": f"{self.home / 'bin'}{os.pathsep}{env['PATH']}", "RAY_ADDRESS": "local"}
        done = subprocess.run(words, cwd=self.work, env=env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, f"{words}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


def fresh(folder: Path) -> Iterator[Environment]:
    yield Environment(folder)
    shutil.rmtree(folder)  # gigabytes, where they are no links


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    for environment in fresh(tmp_path_factory.mktemp("core")):
        environment.install(str(wheel))
        yield environment


@pytest.fixture(scope="module")
def extended(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """An environment that the tests below add to: an extra must bring what the ones before did not."""
    yield from fresh(tmp_path_factory.mktemp("extended"))


def test_the_core_alone_is_small_and_runs_a_search_on_ray_and_inline(core: Environment) -> None:
    present = core.packages()
    assert not present & {"torch", "gymnasium", "mujoco", "matplotlib", "scikit-learn", "scipy", "pyarrow", "cmaes"}
    assert present >= {"tune-platform", "ray", "optuna", "pandas", "numpy", "sqlalchemy", "rich", "pydantic"}
    size = sum(path.lstat().st_size for path in core.home.rglob("*") if path.is_file() and path.suffix != ".pyc")
    row = re.search(r"^\| none \|.*\| (\d+) \|$", (ROOT / "docs/install.md").read_text(), re.MULTILINE)
    assert row is not None
    assert size / 1e6 == pytest.approx(float(row[1]), rel=0.25)  # what the page says, for other versions too

    check_searches(core)
    assert "not here: torch, parquet, samplers, cluster, plots" in core.command("doctor")
    where = core.python("import tune_platform; print(tune_platform.__file__)").strip()
    assert Path(where).is_relative_to(core.home)


def check_searches(environment: Environment) -> None:
    """A search on Ray and inline, from a folder that is not the checkout's."""
    environment.command("check", "spec.yaml")
    for name, backend in (("on-ray", "ray"), ("inline", "inline")):
        environment.command("run", "spec.yaml", "--name", name, "--backend", backend)
        shown = json.loads(environment.command("show", name, "--json"))
        assert shown["status"] == "finished"
        assert len(shown["trials"]) == 12
        assert {trial["status"] for trial in shown["trials"]} == {"COMPLETED", "STOPPED"}
        assert environment.command("best", name, "--as", "args").startswith("--x=")
        assert environment.command("export", name).startswith("trial,status")


def test_the_oldest_versions_that_the_core_allows_run_a_search(wheel: Path, tmp_path: Path) -> None:
    for environment in fresh(tmp_path / "oldest"):
        environment.install("--resolution", "lowest-direct", "-r", str(ROOT / "pyproject.toml"))
        before = environment.packages()
        environment.install(str(wheel))
        assert environment.packages() == {*before, "tune-platform"}  # and nothing had to be newer
        check_searches(environment)


def test_the_tutorial_can_be_followed_after_an_installation(core: Environment) -> None:
    core.work = core.home.parent / "tutorial"
    core.work.mkdir()
    follow(core.work, lambda line: core.shell(line.removeprefix("uv run ")))


def test_the_core_alone_has_the_examples(core: Environment) -> None:
    for example in ("digits", "xgboost", "lightning"):
        core.command("init", example, "--folder", example)
        assert {path.name for path in (core.work / example).iterdir()} == {f"{example}.yaml", f"{example}_training.py"}


INLINE = "run spec.yaml --backend inline --trials 3 --name {name}"
#: What shows that an extra is enough, in this order: Python, or a command.
USES: dict[str, list[str]] = {
    "parquet": [INLINE.format(name="it"), "export it --format parquet -o it.parquet"],
    "samplers": [
        f"{INLINE.format(name='qmc')} --set search.name=qmc",
        f"{INLINE.format(name='cmaes')} --set search.name=cmaes",
        f"{INLINE.format(name='forest')} --set search.name=forest",
    ],
    "postgresql": ["import psycopg; psycopg.pq.version()"],
    "plots": ["from matplotlib.figure import Figure; Figure().savefig('it.png')"],
    "cluster": [
        "import fsspec; assert all(fsspec.get_filesystem_class(each) for each in ('s3', 'gs', 'abfs'))",
        "import ray.dashboard.optional_deps, ray.autoscaler.sdk",
    ],
    "dashboard": [],
    "torch": [
        "from tune_platform.distributed import Gang; Gang('threads', 2).group().close()",
        "from tune_platform.trainables.strategies import STRATEGIES; [STRATEGIES[name] for name in STRATEGIES]",
        f"{INLINE.format(name='gp')} --set search.name=gp",  # with `samplers`
    ],
    "examples": [
        "from tune_platform.trainables.data import load_images; load_images('digits').tensors('val')",
        "init digits",
        "run digits.yaml --backend inline --trials 2 --set schedule.max=3 --set space.epochs=3",
        "best digits",
    ],
    "robustness": ["from tune_platform.trainables.robustness import study, figures"],
    "zero-label": ["from tune_platform.trainables.zero_label import study, study_report"],
    "lightning": ["from tune_platform.integrations.lightning import LightningCallback; LightningCallback()"],
    "xgboost": ["from tune_platform.integrations.xgboost import XGBoostCallback; XGBoostCallback()"],
    "lightgbm": ["import lightgbm; from tune_platform.integrations.lightgbm import LightGBMCallback"],
    "transformers": [
        "from tune_platform.integrations.huggingface import HuggingFaceCallback; import transformers as t; t.Trainer",
    ],
    "keras": [
        "import os; os.environ['KERAS_BACKEND'] = 'torch'; from tune_platform.integrations.keras import KerasCallback",
    ],
    "mlflow": [f"{INLINE.format(name='mlflow')} --set track=[mlflow]"],
    "tensorboard": [f"{INLINE.format(name='tensorboard')} --set track=[tensorboard]"],
    "wandb": ["import wandb; from tune_platform.tracking.wandb import WandbTracker"],
    "policy-gradient": [
        "import gymnasium; gymnasium.make('Hopper-v5').reset()",
        "from tune_platform.trainables.policy_gradient import study, analyse",
    ],
}


@pytest.mark.parametrize("extra", list(USES))
def test_an_extra_is_enough_for_what_it_is_for(extended: Environment, wheel: Path, extra: str) -> None:
    extended.install(f"{wheel}[{extra}]")
    for use in USES[extra]:
        if use.startswith(("run ", "export ", "init ", "best ")):
            extended.command(*use.split())
        else:
            extended.python(use)


def test_an_extra_names_all_that_it_needs(metadata: Message) -> None:
    """The test above adds one to the other, so that what one lacks may come from another."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(extras) == {*USES, "all"}

    def brought(extra: str) -> set[str]:
        found: set[str] = set()
        for need in map(Requirement, extras[extra]):
            found |= set().union(*map(brought, need.extras)) if need.name == "tune-platform" else {need.name}
        return found

    trainables = {"torch", "torchvision", "matplotlib", "plotly", "kaleido", "scipy"}
    assert brought("robustness") == brought("zero-label") == {*trainables, "scikit-learn"}
    assert brought("policy-gradient") == {*trainables, "gymnasium"}
    assert brought("examples") == {"torch", "torchvision", "scikit-learn"}
    assert brought("all") == set().union(*map(brought, USES))
