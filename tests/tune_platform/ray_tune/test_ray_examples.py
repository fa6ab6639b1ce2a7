"""Example files that Ray Tune ships, unchanged but for the import line, under the drop-in Tuner on real Ray."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_platform import load

#: Each with how many trials its `--smoke-test` makes. TUNE_PLATFORM_EXAMPLES=all runs those that are slow, too.
SHORT = {"logging_example": 5, "tune_basic_example": 10, "custom_func_checkpointing": 5}
LONG = {"async_hyperband_example": 20, "hyperband_example": 20, "optuna_example": 10}
CHOSEN = {**SHORT, **LONG} if os.environ.get("TUNE_PLATFORM_EXAMPLES") == "all" else SHORT


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_an_example_of_ray_tunes_runs_unchanged(name: str, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "tune" / "examples" / f"{name}.py").read_text(encoding="utf-8")
    changed = source.replace("from ray import tune\n", "from tune_platform import ray_tune as tune\n")
    assert changed != source
    (tmp_path / "script.py").write_text(changed, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "script.py", "--smoke-test"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (path for path in (tmp_path / "tune_results").iterdir() if path.is_dir())
    assert load(folder.name, storage=tmp_path / "tune_results").counts == {"COMPLETED": CHOSEN[name]}
