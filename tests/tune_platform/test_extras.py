"""The core runs on its own dependencies; what needs an optional library says in one line how to install it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tune_platform.errors import MissingLibraryError
from tune_platform.extras import EXTRAS, how_to_install, require

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: Stands in front of a script: only what the core depends on can be imported.
BLOCK = """\
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""

EVERY_MODULE = """\
import pkgutil, importlib
import tune_platform

refused = []
def walk(package):
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        try:
            module = importlib.import_module(found.name)
        except ImportError as error:  # Ray's own, where its part for Tune lacks something, names no module
            refused.append((found.name, error.name or error.__cause__.name))
        else:
            if found.ispkg:
                walk(module)
walk(tune_platform)
print(refused)
"""

USE_IT = """\
import subprocess
from tune_platform.cli import main
from tune_platform import report

def train(config):
    for step in range(1, 4):
        report({"loss": config["x"] / step})

def call(*words):
    try:
        main(list(words))
    except SystemExit as end:
        assert end.code == 0, (words, end.code)

if __name__ == "__main__":
    from tune_platform import ASHA, SearchSpec, run, uniform
    spec = SearchSpec(name="it", trainable=train, param_space={"x": uniform(0.0, 1.0)}, metric="loss", mode="min",
                      searcher="tpe", scheduler=ASHA(max=3), num_samples=12, backend="inline", storage="there")
    run(spec)
    for words in ("ls", "show it", "show it 0", "best it --as python", "why it 0", "export it", "export it --reports",
                  "export it --format json", "doctor", "--help"):
        call(*words.split(), *(("--storage", "there") if words != "--help" else ()))
"""


def optional_modules() -> set[str]:
    """Everything here that no dependency of the core brings."""
    wanted: set[str] = set()
    queue = [Requirement(line) for line in PROJECT["dependencies"]]
    while queue:
        need = queue.pop()
        name = canonicalize_name(need.name)
        extras = {"", *need.extras}
        if name in wanted or (need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras)):
            continue
        wanted.add(name)
        queue += [
            each
            for each in map(Requirement, distribution(name).requires or ())
            if each.marker is None or each.marker.evaluate({"extra": ""})
        ]
    wanted.add("tune-platform")
    bundled = {path.name for path in Path(str(distribution("ray").locate_file("ray/thirdparty_files"))).iterdir()}
    return {
        module
        for module, brought_by in packages_distributions().items()
        if module.isidentifier()
        and module not in bundled
        and not wanted & {canonicalize_name(name) for name in brought_by}
    }


def core_only(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` as a script in `folder`, where nothing but the core can be imported."""
    script = folder / "script.py"
    script.write_text(BLOCK.format(blocked=optional_modules()) + code)
    return subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=250)


def test_the_optional_modules_are_found() -> None:
    optional = optional_modules()
    assert optional >= {"torch", "pyarrow", "scipy", "cmaes", "matplotlib", "psycopg", "sklearn", "gymnasium", "pytest"}
    assert not optional & {"ray", "optuna", "pandas", "numpy", "sqlalchemy", "yaml", "alembic", "tune_platform"}


@pytest.mark.slow
def test_no_module_of_the_core_imports_an_optional_library(tmp_path: Path) -> None:
    done = core_only(EVERY_MODULE, tmp_path)
    assert done.returncode == 0, done.stderr
    refused = dict(eval(done.stdout))
    by_part: dict[str, set[str]] = {}
    for name, missing in refused.items():
        by_part.setdefault(name.split(".")[1], set()).add(missing)
    # A framework that is not installed at all here is missed too; it is never more than these.
    assert by_part.pop("integrations") <= {"xgboost", "lightgbm", "keras", "lightning", "transformers", "sklearn"}
    assert by_part.pop("tracking") <= {"wandb", "tensorboardX", "mlflow"}
    assert by_part == {
        "dashboard": {"dash", "dash_ag_grid", "dash_mantine_components", "flask", "plotly"},
        "distributed": {"torch"},
        "plots": {"plotly"},
        "ray_tune": {"pyarrow"},  # the Recorder, which is part of a script that has Ray Tune
        "testing": {"pytest"},
        "trainables": {"torch"},
    }


@pytest.mark.slow
def test_a_search_and_every_reading_command_need_the_core_only(tmp_path: Path) -> None:
    done = core_only(USE_IT, tmp_path)
    assert done.returncode == 0, done.stderr
    missing = "torch, parquet, samplers, cluster, plots, dashboard, postgresql, policy-gradient, lightning, xgboost, "
    assert f"not here: {missing}" in done.stdout


def test_every_extra_is_there_and_brings_its_libraries() -> None:
    packages = {"sklearn": "scikit-learn", "aiohttp": "ray"}
    extras = PROJECT["optional-dependencies"]
    for module, extra in EXTRAS.items():
        brought = {canonicalize_name(Requirement(line).name) for line in extras[extra]}
        names = {canonicalize_name(packages.get(module, module)), canonicalize_name(module)}
        assert names & brought or module == "mujoco"  # gymnasium[mujoco]
    named = {extra for line in extras["all"] for extra in Requirement(line).extras}
    assert named == set(extras) - {"all"}


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingLibraryError) as caught:
        require("--format parquet", "sys", "pyarrow")
    said = "--format parquet needs 'pyarrow', which is not installed: pip install 'tune-platform[parquet]'"
    assert (str(caught.value), caught.value.name) == (said, "pyarrow")
    assert how_to_install("scipy.stats") == ": pip install 'tune-platform[samplers]'"
    assert how_to_install("jax") == how_to_install(None) == ""


CHECK = "SearchSpec(trainable='tune_platform.trainables.digits:DigitsTrainable', param_space={'x': 1}, "
CHECK += "metric='loss', mode='min').check()"
TO_S3 = "SearchSpec(trainable=lambda config: {'loss': 1.0}, param_space={'x': 1}, metric='loss', mode='min', "
TO_S3 += "checkpoint={'storage': 's3://bucket/there'}).check()"
TRACKED = "SearchSpec(trainable=lambda config: {{'loss': 1.0}}, metric='loss', mode='min', track=['{}']).check()"
#: What needs an extra, and how its one line ends: with the library that is missing first, and the extra.
MISSING = {
    CHECK: ("'torch'", "torch"),
    "import tune_platform.trainables.digits": ("'torch'", "torch"),
    "from tune_platform.trainables.strategies import STRATEGIES": ("'torch'", "torch"),
    "from tune_platform.distributed import DistributedTrainable": ("'torch'", "torch"),
    "Gang('threads', 2).group()": ("'torch'", "torch"),
    "make_searcher('gp')": ("'scipy'", "samplers"),
    "make_searcher('cmaes')": ("'cmaes'", "samplers"),
    "make_searcher('qmc')": ("'scipy'", "samplers"),
    "make_searcher('forest')": ("'sklearn'", "samplers"),
    "open_store('postgresql://localhost/db').names()": ("'psycopg'", "postgresql"),
    TO_S3: ("s3fs", "cluster"),
    "import tune_platform.integrations.lightning": ("'lightning'", "lightning"),
    "import tune_platform.integrations.xgboost": ("'xgboost'", "xgboost"),
    "import tune_platform.integrations.lightgbm": ("'lightgbm'", "lightgbm"),
    "import tune_platform.integrations.huggingface": ("'transformers'", "transformers"),
    "import tune_platform.integrations.keras": ("'keras'", "keras"),
    "import tune_platform.integrations.sklearn": ("'sklearn'", "samplers"),
    TRACKED.format("mlflow"): ("'mlflow'", "mlflow"),
    TRACKED.format("tensorboard"): ("'tensorboardX'", "tensorboard"),
    TRACKED.format("wandb"): ("'wandb'", "wandb"),
    "CheckpointStorage('s3://bucket/there')": ("s3fs", "cluster"),
}


def test_what_needs_an_extra_says_so_in_one_line(tmp_path: Path) -> None:
    lines = [
        "from tune_platform import SearchSpec, TunePlatformError",
        "from tune_platform.distributed import Gang",
        "from tune_platform.registry import make_searcher",
        "from tune_platform.store.checkpoints import CheckpointStorage",
        "from tune_platform.store.sql import open_store",
        f"for code in {list(MISSING)}:",
        "    try: exec(code)",
        "    except TunePlatformError as error: print(error)",
    ]
    done = core_only("\n".join(lines), tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(MISSING), said
    for line, (library, extra) in zip(said, MISSING.values(), strict=True):
        assert library in line
        assert line.endswith(f": pip install 'tune-platform[{extra}]'")


FIGURES = [
    "tune_platform.trainables.policy_gradient.figures",
    "tune_platform.trainables.robustness.figures",
    "tune_platform.trainables.zero_label.pictures",
    "tune_platform.trainables.zero_label.study_plots",
]


@pytest.mark.slow
def test_figures_without_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys, importlib; sys.modules['matplotlib'] = None\n"
        f"for name in {FIGURES}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=250)
    said = done.stdout.splitlines()
    assert len(said) == len(FIGURES), done.stderr
    assert all(
        line.endswith("'matplotlib', which is not installed: pip install 'tune-platform[plots]'") for line in said
    )
