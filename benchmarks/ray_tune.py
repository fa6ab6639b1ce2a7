"""The same script under Ray Tune and under the drop-in Tuner, in turn, in one run: trials/s, and seconds to the start.

    python benchmarks/ray_tune.py [--quick] [--json]

The script is Ray Tune's own manner: a function that reports once, random search. Only the module that `tune` names is
another. Each side runs in a process of its own, with a Ray of its own of the same number of CPUs. `trials_ratio` is the
median over the rounds of ours divided by theirs. The trials of one side are so many that its start weighs little, and
its time counts from the first line of the script to its end.

`recorder_overhead` is the share of time that our Recorder adds to Ray Tune's `fit`: in one process, on one Ray, a
search with it and one without take turns, each pair in the other order than the one before; the median over the pairs
of the one's time divided by the other's, minus 1. `recorder_spread` is half the distance of its quartiles, and
`recorder_processor` the share by which the processor time of the driver rises. Each trial reports ten times. The two
lists `..._interval` are where the median lies with a probability of 95 % (order statistics: no shape is assumed).

`recorder_share` says the same more exactly: the processor time of the Recorder's callbacks and of its thread, read from
the clocks of their threads without what reading these takes, by the processor time of the driver in the same search.
What it cannot see is what the thread costs others, by waiting for its turn. A first pair, in which all is imported,
does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

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
#: Searches with and without the Recorder, in turn.
PAIRS = """
import json, os, sys, time
import ray
from ray import tune
from tune_platform.ray_tune import Recorder

class Timed(Recorder):
    spent = 0.0

def timed(name):
    inner = getattr(Recorder, name)
    def call(self, *words, **options):
        before = time.thread_time()
        began = time.thread_time()
        try:
            return inner(self, *words, **options)
        finally:
            self.spent += (time.thread_time() - began) - (began - before)
    setattr(Timed, name, call)

for name in ("setup", "on_trial_start", "on_trial_result", "on_trial_complete", "on_experiment_end", "_work"):
    timed(name)

def train(config):
    for step in range(10):
        tune.report({{"loss": config["x"] / (step + 1)}})

def fit(name, callbacks):
    began, used = time.perf_counter(), time.process_time()
    results = tune.Tuner(
        train,
        param_space={{"x": tune.uniform(0, 1)}},
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples={trials}, reuse_actors=True),
        run_config=tune.RunConfig(name=name, storage_path={folder!r}, verbose=0, callbacks=callbacks),
    ).fit()
    assert len(results) == {trials} and results.num_errors == 0
    return time.perf_counter() - began, time.process_time() - used

ray.init("local", num_cpus={cpus}, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
pairs = []
for pair in range({pairs} + 1):
    found = {{}}
    for side in ("alone", "recorded")[:: 1 if pair % 2 else -1]:
        recorders = [Timed(storage={folder!r} + "/ours")] if side == "recorded" else []
        found[side] = fit(f"{{side}}_{{pair}}", recorders)
        found["spent"] = recorders[0].spent if recorders else found.get("spent")
    pairs.append(found)
print("FIGURES " + json.dumps(pairs[1:]))
"""
IMPORTS = {
    "theirs": "from ray import tune",
    "ours": "from tune_platform import ray_tune as tune",
}


def measure(side: str, trials: int, cpus: int) -> dict[str, float]:
    """Return the trials, the seconds of `fit`, those to the first report, and the driver's peak memory in MiB."""
    figures: dict[str, float] = _figures(SCRIPT, import_line=IMPORTS[side], cpus=cpus, trials=trials)
    return figures


def overhead(trials: int, pairs: int, cpus: int) -> dict[str, Any]:
    """Return by which share the Recorder slows Ray Tune down: of time, and of the driver's processor time."""
    found = _figures(PAIRS, trials=trials, pairs=pairs, cpus=cpus)
    seconds, used = ([each["recorded"][at] / each["alone"][at] - 1 for each in found] for at in (0, 1))
    shares = [each["spent"] / (each["recorded"][1] - each["spent"]) for each in found]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {
        "recorder_overhead": middle,
        "recorder_overhead_interval": interval(seconds),
        "recorder_spread": (high - low) / 2,
        "recorder_processor": statistics.median(used),
        "recorder_processor_interval": interval(used),
        "recorder_share": statistics.median(shares),
        "recorder_share_interval": interval(shares),
        "recorder_pairs": len(found),
    }


def interval(values: Sequence[float], wanted: float = 0.95) -> list[float]:
    """Return two of the values between which the median lies with this probability; the ends where they are too few.

    The number of values below the median is binomial (n, 1/2), whatever their distribution.
    """
    ordered, count = sorted(values), len(values)
    outside, at = 0.0, 0
    while at < count // 2 and outside + 2 * math.comb(count, at) / 2**count <= 1 - wanted:
        outside += 2 * math.comb(count, at) / 2**count
        at += 1
    at = max(0, at - 1)
    return [ordered[at], ordered[count - 1 - at]]


def _figures(script: str, **values: Any) -> Any:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        code = script.format(folder=folder, **values)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
    for line in done.stdout.splitlines():
        if line.startswith("FIGURES "):
            return json.loads(line.removeprefix("FIGURES "))
    raise RuntimeError(f"it failed:\n{done.stderr[-3000:]}")


def main() -> None:
    """Measure both sides in turn and print the figures; with --json the last line has them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few trials, one round")
    parser.add_argument("--json", action="store_true", help="the last line is a JSON object")
    parser.add_argument("--cpus", type=int, default=2)
    options = parser.parse_args()
    theirs, ours, rounds = (50, 1000, 1) if options.quick else (200, 4000, 3)
    rates: dict[str, list[float]] = {"theirs": [], "ours": []}
    figures: dict[str, Any] = {}
    for _ in range(rounds):
        for side, trials in (("theirs", theirs), ("ours", ours)):
            found = measure(side, trials, options.cpus)
            rates[side].append(found["trials"] / found["seconds"])
            figures.update({f"{side}_{name}": value for name, value in found.items() if name in ("first", "memory")})
            print(f"{side}: {rates[side][-1]:.1f} trials/s, first report after {found['first']:.2f} s")
    figures["theirs_trials_per_s"] = statistics.median(rates["theirs"])
    figures["ours_trials_per_s"] = statistics.median(rates["ours"])
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["theirs"], strict=True)]
    figures["trials_ratio"] = statistics.median(ratios)
    figures |= overhead(*((50, 7) if options.quick else (100, 15)), options.cpus)
    print(f"trials_ratio {figures['trials_ratio']:.1f}")
    for name in ("recorder_overhead", "recorder_processor", "recorder_share"):
        low, high = figures[f"{name}_interval"]
        print(f"{name} {figures[name]:.2%} [{low:.2%}, {high:.2%}]")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
