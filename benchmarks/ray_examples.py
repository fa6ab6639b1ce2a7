"""The examples that Ray Tune ships, unchanged but for the import line, under Ray Tune and here: do they run, how fast?

    python -m benchmarks.ray_examples [NAME ...] [--here] [--seconds 240] [--json]

Taken are those that need no download; libraries that are not installed are brought by uv. Each runs with its own
`--smoke-test`, in a process and with a Ray of its own. Trials/s count from the beginning of `Tuner.fit` to its end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OURS = "from tune_platform import ray_tune as tune"
#: Each example with what is brought for it.
EXAMPLES: dict[str, Sequence[str]] = {
    "async_hyperband_example": (),
    "cifar10_pytorch": (),
    "custom_checkpointing_with_callback": (),
    "custom_func_checkpointing": (),
    "hyperband_example": (),
    "hyperband_function_example": (),
    "logging_example": (),
    "optuna_define_by_run_example": (),
    "optuna_example": (),
    "optuna_multiobjective_example": (),
    "pb2_example": (),
    "pbt_example": (),
    "pbt_function": (),
    "tune_basic_example": (),
    "xgboost_dynamic_resources_example": (),
    "xgboost_example": (),
    "ax_example": ("ax-platform==0.5.0", "pandas<3"),
    "bayesopt_example": ("bayesian-optimization==1.4.3",),
    "bohb_example": ("hpbandster", "ConfigSpace"),
    "hyperopt_conditional_search_space_example": ("hyperopt", "setuptools<70"),
    "lightgbm_example": ("lightgbm",),
    "mlflow_example": ("mlflow",),
    "nevergrad_example": ("nevergrad",),
}
#: Runs script.py with the time of each `fit` taken.
DRIVER = """
import json, runpy, sys, time, {module} as tune
fit = tune.Tuner.fit
def timed(self):
    began = time.time()
    grid = fit(self)
    figures = {{"trials": len(grid), "errors": grid.num_errors, "seconds": time.time() - began}}
    print("FIGURES " + json.dumps(figures), flush=True)
    return grid
tune.Tuner.fit = timed
sys.argv = ["script.py", "--smoke-test"]
runpy.run_path("script.py", run_name="__main__")
"""
#: Runs each of the scripts in one process on one Ray, with few samples of few iterations; a line of figures for each.
TOGETHER = """
import inspect, json, os, runpy, sys, traceback
import ray, {module} as tune
ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.init = ray.shutdown = lambda *words, **options: None
made, fit = tune.Tuner.__init__, tune.Tuner.fit
def shortened(self, *words, tune_config=None, run_config=None, **options):
    tune_config, run_config = tune_config or tune.TuneConfig(), run_config or tune.RunConfig()
    tune_config.num_samples = min(tune_config.num_samples, {samples})
    what = words[0] if words else options.get("trainable")
    tune_config.reuse_actors = tune_config.reuse_actors or inspect.isfunction(what)  # a process for each takes seconds
    stop = dict(run_config.stop or {{}})
    run_config.stop = {{**stop, "training_iteration": min(stop.get("training_iteration", 9999), {iterations})}}
    made(self, *words, tune_config=tune_config, run_config=run_config, **options)
def counted(self):
    grid = fit(self)
    found["trials"], found["errors"] = found["trials"] + len(grid), found["errors"] + grid.num_errors
    return grid
tune.Tuner.__init__, tune.Tuner.fit = shortened, counted
for name in {names!r}:
    found = {{"trials": 0, "errors": 0, "error": None}}
    sys.argv = [name + ".py", "--smoke-test"]
    try:
        runpy.run_path(name + ".py", run_name="__main__")
    except BaseException as error:
        traceback.print_exc()
        found["error"] = traceback.format_exception_only(error)[-1].strip()
    print("FIGURES " + json.dumps([name, found]), flush=True)
"""


def run_example(name: str, *, here: bool, seconds: float = 240.0) -> dict[str, Any]:
    """Run an example; return `trials`, `errors` and `seconds` of its searches, or the last line of its `error`.

    Raises ValueError for a script without the import line.
    """
    script = _script(name, here=here)
    code = DRIVER.format(module=_MODULE[here])
    try:
        done = _python(code, {"script.py": script}, EXAMPLES[name], here=here, seconds=seconds)
    except subprocess.TimeoutExpired:
        return {"error": f"it did not end within {seconds:g} s"}
    fits = [json.loads(line[8:]) for line in done.stdout.splitlines() if line.startswith("FIGURES ")]
    if done.returncode or not fits:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return {key: sum(fit[key] for fit in fits) for key in ("trials", "errors", "seconds")}


def run_together(
    names: Sequence[str], *, here: bool, samples: int = 2, iterations: int = 4, seconds: float = 280.0
) -> dict[str, dict[str, Any]]:
    """Run examples in a short form: on one Ray, at most so many samples and iterations of each.

    Return of each `trials`, `errors` and `error`, the last line of what it raised (None: nothing). An example that was
    not reached within `seconds` is missing.
    """
    scripts = {f"{name}.py": _script(name, here=here) for name in names}
    packages = list(dict.fromkeys(package for name in names for package in EXAMPLES[name]))
    code = TOGETHER.format(module=_MODULE[here], names=list(names), samples=samples, iterations=iterations)
    try:
        said = _python(code, scripts, packages, here=here, seconds=seconds)
        out, err = said.stdout, said.stderr
    except subprocess.TimeoutExpired as error:
        out, err = ((text or b"").decode() for text in (error.stdout, error.stderr))
    print(err[-20_000:], file=sys.stderr)
    return dict(json.loads(line[8:]) for line in out.splitlines() if line.startswith("FIGURES "))


_MODULE = {True: "tune_platform.ray_tune", False: "ray.tune"}


def _script(name: str, *, here: bool) -> str:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    script = (Path(spec.origin).parent / "tune" / "examples" / f"{name}.py").read_text(encoding="utf-8")
    if "from ray import tune\n" not in script:
        raise ValueError(f"{name} has no line 'from ray import tune'")
    return script.replace("from ray import tune\n", f"{OURS}\n") if here else script


def _python(
    code: str, scripts: Mapping[str, str], packages: Sequence[str], *, here: bool, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a folder with `scripts`, with `packages` brought. Raises TimeoutExpired."""
    withs = [word for package in packages for word in ("--with", package)]
    command = ["uv", "run", "--no-sync", "--project", str(ROOT), *withs, "python"] if withs else [sys.executable]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "RAY_ADDRESS": "local",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # What was stopped in its midst may still write there.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, text in scripts.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        if not here:
            environment["HOME"] = folder  # its results lie in ~/ray_results
            environment.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
        return subprocess.run(
            [*command, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False,
            timeout=seconds,
        )  # fmt: skip


def main() -> None:
    """Run the examples on both sides in turn and print what came of each; with --json the last line has it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(EXAMPLES))
    parser.add_argument("--here", action="store_true", help="only here, not under Ray Tune")
    parser.add_argument("--seconds", type=float, default=240.0, help="how long one side of an example may take")
    parser.add_argument("--json", action="store_true", help="the last line is a JSON object")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in options.names:
        sides = {"here": True} if options.here else {"there": False, "here": True}
        found[name] = {side: run_example(name, here=here, seconds=options.seconds) for side, here in sides.items()}
        for side, figures in found[name].items():
            rate = f"{figures['trials'] / figures['seconds']:.2f} trials/s" if "trials" in figures else ""
            print(f"{name} {side}: {rate} {figures}", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
