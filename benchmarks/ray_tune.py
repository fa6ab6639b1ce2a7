"""The same script under Ray Tune and under the drop-in Tuner, in turn, in one run: trials/s, and seconds to the start.

    python benchmarks/ray_tune.py [--quick] [--json]

The script is Ray Tune's own manner: a function that reports once, random search. Only the module that `tune` names is
another. Each side runs in a process of its own, with a Ray of its own of the same number of CPUs. `trials_ratio` is the
median over the rounds of ours divided by theirs. The trials of one side are so many that its start weighs little, and
its time counts from the first line of the script to its end. `recorder_overhead` is the share of time by which a third
side, Ray Tune with our Recorder among its callbacks, is slower than Ray Tune alone: the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

#: The script; `{import_line}` is all that differs.
SCRIPT = """
import json, resource, sys, time
began = time.time()
{import_line}
import ray

def null(config):
    tune.report({{"loss": config["x"], "at": time.time()}})

ray.init("local", num_cpus={cpus}, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
fit = time.time()
results = tune.Tuner(
    null,
    param_space={{"x": tune.uniform(0, 1)}},
    tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples={trials}, reuse_actors=True),
    run_config=tune.RunConfig(name="null", storage_path={folder!r}, verbose=0),
).fit()
seconds = time.time() - fit
assert len(results) == {trials} and results.num_errors == 0
first = min(result.metrics["at"] for result in results) - fit
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("FIGURES " + json.dumps({{"trials": {trials}, "seconds": seconds, "first": first, "memory": memory}}))
"""
IMPORTS = {
    "theirs": "from ray import tune",
    "recorded": "from ray import tune",
    "ours": "from tune_platform import ray_tune as tune",
}


def measure(side: str, trials: int, cpus: int) -> dict[str, float]:
    """Return the trials, the seconds of `fit`, those to the first report, and the driver's peak memory in MiB."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        if side == "recorded":
            environment["RAY_TUNE_CALLBACKS"] = "tune_platform.ray_tune.Recorder"
            environment["TUNE_PLATFORM_STORAGE"] = f"{folder}/recorded"
        script = SCRIPT.format(import_line=IMPORTS[side], cpus=cpus, trials=trials, folder=folder)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
    for line in done.stdout.splitlines():
        if line.startswith("FIGURES "):
            figures: dict[str, float] = json.loads(line.removeprefix("FIGURES "))
            return figures
    raise RuntimeError(f"{side} failed:\n{done.stderr[-3000:]}")


def main() -> None:
    """Measure both sides in turn and print the figures; with --json the last line has them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few trials, one round")
    parser.add_argument("--json", action="store_true", help="the last line is a JSON object")
    parser.add_argument("--cpus", type=int, default=2)
    options = parser.parse_args()
    theirs, ours, rounds = (50, 1000, 1) if options.quick else (200, 4000, 3)
    rates: dict[str, list[float]] = {"theirs": [], "recorded": [], "ours": []}
    figures: dict[str, float] = {}
    for _ in range(rounds):
        for side, trials in (("theirs", theirs), ("recorded", theirs), ("ours", ours)):
            found = measure(side, trials, options.cpus)
            rates[side].append(found["trials"] / found["seconds"])
            figures.update({f"{side}_{name}": value for name, value in found.items() if name in ("first", "memory")})
            print(f"{side}: {rates[side][-1]:.1f} trials/s, first report after {found['first']:.2f} s")
    figures["theirs_trials_per_s"] = statistics.median(rates["theirs"])
    figures["ours_trials_per_s"] = statistics.median(rates["ours"])
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["theirs"], strict=True)]
    figures["trials_ratio"] = statistics.median(ratios)
    slower = [alone / with_it - 1 for alone, with_it in zip(rates["theirs"], rates["recorded"], strict=True)]
    figures["recorder_overhead"] = statistics.median(slower)
    print(f"trials_ratio {figures['trials_ratio']:.1f}, recorder_overhead {figures['recorder_overhead']:.1%}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
