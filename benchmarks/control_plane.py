"""What the control plane costs: this platform, Ray Tune, and a bare `ray.wait` loop, in turn, in one run.

All run the same null trainable (10 steps that do nothing) under ASHA with grace 1, eta 3 and max 10, on the same
local Ray with one worker per core. Each figure is the median over rounds; in each round every system runs once, in
rotating order, so that a machine that slows down slows down all of them. Start-up of Ray itself is not counted; that of
the workers is part of trials/s, and not of calls/s, which are measured from the first report on.

    python -m benchmarks.control_plane            # several rounds, up to 1,000,000 simulated trials; 15 to 40 minutes
    python -m benchmarks.control_plane --quick --json

Python's compiled modules are kept whatever the environment says: else each of the many processes that Ray starts
compiles all it imports, which takes longer than anything that is measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Table

# Where this is started by `uv run`, Ray would build an environment anew for every worker. Read when Ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

#: Seconds after which a Ray that has just started is idle: by then the worker processes that it starts ahead are up.
SETTLE_S = 3.0
STEPS = 10
#: Rows of the log that a trial of this search takes, about.
ROWS_PER_TRIAL = 6
SYSTEMS = ("platform", "ray_tune", "ray_tune_no_loggers", "raw_ray")


# ------------------------------------------------------------------------------------------ the systems


def start_ray(cpus: int) -> None:
    """Start the local Ray that all systems of one round share."""
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )


class Calls:
    """Counts the actor calls that the platform makes, one for each launch and each further leg, and times them."""

    def __init__(self) -> None:
        self.count = 0
        self.first = self.last = 0.0

    def per_second(self) -> float:
        """Return the calls made per second, from the first report on."""
        return self.count / (self.last - self.first)

    def __call__(self, run: Any, events: Sequence[Any], effects: Sequence[Any]) -> None:
        """Count the legs of one turn."""
        self.last = time.perf_counter()
        if not self.first and any(type(event).__name__ == "Reported" for event in events):
            self.first = self.last
        if self.first:
            self.count += sum(map(_begins_a_leg, effects))


def _begins_a_leg(effect: Any) -> bool:
    verdict = getattr(effect, "verdict", None)
    return effect.kind == "launched" or type(verdict).__name__ == "Continue"


def run_platform(trials: int, cpus: int) -> dict[str, float]:
    """Run the search on this platform, with its SQLite store on."""
    from benchmarks.null import NullTrainable
    from tune_platform import ASHA, SearchSpec, run, uniform

    calls = Calls()
    with tempfile.TemporaryDirectory() as storage:
        spec = SearchSpec(
            name="null",
            trainable=NullTrainable,
            param_space={"x": uniform(0, 1)},
            metric="loss",
            mode="min",
            searcher="random",
            scheduler=ASHA(min=1, max=STEPS, eta=3),
            num_samples=trials,
            max_concurrent=cpus,
            stop={"step": STEPS},
            storage=storage,
        )
        begin = time.perf_counter()
        results = run(spec, listeners=[calls])
        seconds = time.perf_counter() - begin
        reports = sum(trial.step for trial in results.trials())
    return {
        "trials_per_s": trials / seconds,
        "reports_per_s": reports / seconds,
        "calls_per_s": calls.per_second(),
        "first_report_s": calls.first - begin,
        "seconds": seconds,
    }


def run_ray_tune(trials: int, cpus: int, *, loggers: bool) -> dict[str, float]:
    """Run the search with Ray Tune's Tuner and `reuse_actors`."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "0" if loggers else "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    from benchmarks.null import make_ray_tune_trainable

    with tempfile.TemporaryDirectory() as storage, quiet():
        tuner = tune.Tuner(
            make_ray_tune_trainable(),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                num_samples=trials,
                reuse_actors=True,
                scheduler=ASHAScheduler(grace_period=1, reduction_factor=3, max_t=STEPS),
            ),
            run_config=tune.RunConfig(storage_path=storage, verbose=0, stop={"training_iteration": STEPS}),
        )
        begin = time.perf_counter()
        grid = tuner.fit()
        seconds = time.perf_counter() - begin
        reports = sum(result.metrics["training_iteration"] for result in grid if result.metrics)
    return {"trials_per_s": trials / seconds, "reports_per_s": reports / seconds, "seconds": seconds}


def run_raw(calls: int, cpus: int) -> dict[str, float]:
    """Make `calls` calls to one null actor per core in a bare `ray.wait` loop: what Ray itself can do."""
    import ray

    from benchmarks.raw_ray import null_actors, wait_loop_rate

    actors = null_actors(cpus)
    rate = wait_loop_rate(actors, calls)
    for actor in actors:
        ray.kill(actor)
    return {"calls_per_s": rate, "seconds": calls / rate}


def run_simulated(trials: int) -> dict[str, float]:
    """Run the search on the virtual clock, with the SQLite store on: what the driver costs per trial.

    That is processor time: other work on the machine does not count.
    """
    from benchmarks.null import curve, simulated
    from tune_platform import ASHA, SearchSpec, run, uniform
    from tune_platform.backends.simulated import SimulatedBackend

    def search(count: int, storage: str) -> float:
        spec = SearchSpec(
            name=f"simulated-{count}",
            trainable=simulated,
            param_space={"x": uniform(0, 1)},
            metric="loss",
            mode="min",
            searcher="random",
            scheduler=ASHA(min=1, max=STEPS, eta=3),
            num_samples=count,
            backend=SimulatedBackend(curve, workers=64),
            storage=storage,
        )
        begin = time.process_time()
        run(spec)
        return time.process_time() - begin

    with tempfile.TemporaryDirectory() as storage:
        search(50, storage)  # imports and caches are not what grows with trials
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = search(trials, storage)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"driver_us_per_trial": seconds / trials * 1e6, "memory_mb": (after - before) / 1024}


def run_resume(rows: int) -> dict[str, float]:
    """Resume an experiment under ASHA whose log has about that many rows."""
    from benchmarks.null import curve, simulated
    from tune_platform import ASHA, SearchSpec, resume, run, uniform
    from tune_platform.backends.inline import InlineBackend
    from tune_platform.backends.simulated import SimulatedBackend
    from tune_platform.store.sql import open_store

    with tempfile.TemporaryDirectory() as storage:
        spec = SearchSpec(
            name="long",
            trainable=simulated,
            param_space={"x": uniform(0, 1)},
            metric="loss",
            mode="min",
            searcher="random",
            scheduler=ASHA(min=1, max=STEPS, eta=3),
            num_samples=rows // ROWS_PER_TRIAL,
            backend=SimulatedBackend(curve, workers=64),
            storage=storage,
        )
        run(spec)
        # The simulated backend would simulate all of it again; a real one starts where the log ends.
        again = spec.model_copy(update={"backend": InlineBackend()})
        with open_store(storage) as store, store.open("long", readonly=True) as experiment:
            written = experiment.last_seq()
        begin = time.perf_counter()
        resume("long", storage=storage, spec=again)
        return {"resume_s": time.perf_counter() - begin, "resume_rows": written}


def run_import() -> float:
    """Time `import tune_platform` in fresh processes, above what Python itself takes."""

    def median_of(code: str) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - begin)
        return float(statistics.median(times))

    return median_of("import tune_platform") - median_of("pass")


def run_first_report(cpus: int) -> dict[str, float]:
    """Time the first answer of a first worker on a Ray that is up and idle: the platform's, and a bare actor's.

    The platform's is its first committed report, from `run` on. The bare actor's, from its creation, is the least that
    anything on Ray can take; it comes second, so that what the driver loads once counts against the platform.
    """
    from benchmarks.raw_ray import null_actors

    start_ray(cpus + 1)  # Ray keeps that many processes ready: one is for the bare actor
    time.sleep(SETTLE_S)
    platform = run_platform(4, cpus)["first_report_s"]
    begin = time.perf_counter()
    null_actors(1)
    return {"first_report_s": platform, "raw_actor_start_s": time.perf_counter() - begin}


# ------------------------------------------------------------------------------------------ the comparison


@contextlib.contextmanager
def quiet() -> Any:
    """Keep Ray Tune's table off the screen."""
    with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink):
        yield


def in_fresh_process(task: str, *arguments: object) -> Any:
    """Run one task of this module in a process of its own and return its figures."""
    command = [sys.executable, "-m", "benchmarks.control_plane", "--task", task, json.dumps(arguments)]
    keeping = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, env=keeping)
    if done.returncode != 0:
        raise RuntimeError(f"{task} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_round(first: int, sizes: Mapping[str, int], cpus: int) -> dict[str, dict[str, float]]:
    """Run every system once on the same Ray, beginning with number `first`."""
    runs: dict[str, Callable[[int, int], dict[str, float]]] = {
        "platform": run_platform,
        "ray_tune": functools.partial(run_ray_tune, loggers=True),
        "ray_tune_no_loggers": functools.partial(run_ray_tune, loggers=False),
        "raw_ray": run_raw,
    }
    start_ray(cpus)
    order = [*SYSTEMS[first % 4 :], *SYSTEMS[: first % 4]]
    return {system: runs[system](sizes[system], cpus) for system in order}


def do_task(task: str, text: str) -> Any:
    """Run the named task in this process; `text` holds its arguments."""
    arguments = json.loads(text)
    match task:
        case "round":
            return run_round(*arguments)
        case "simulated":
            return {str(count): run_simulated(count) for count in arguments}
        case "resume":
            return run_resume(*arguments)
        case "first_report":
            return run_first_report(*arguments)
    raise SystemExit(f"unknown task {task!r}")


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def compare(*, quick: bool) -> dict[str, Any]:
    """Run everything and return the figures."""
    cpus = 2
    tune = 4 if quick else 80
    sizes = {
        "platform": 400 if quick else 4000,
        "ray_tune": tune,
        "ray_tune_no_loggers": tune,
        "raw_ray": 1000 if quick else 10_000,
    }
    rounds = [in_fresh_process("round", first, sizes, cpus) for first in range(1 if quick else 3)]
    figures = {system: medians([one[system] for one in rounds]) for system in SYSTEMS}

    def ratio(key: str, system: str) -> float:
        return float(statistics.median(one["platform"][key] / one[system][key] for one in rounds))

    simulated = in_fresh_process("simulated", *((100, 1000, 2000) if quick else (1000, 10_000, 100_000, 1_000_000)))
    found: dict[str, Any] = {
        "cpus": cpus,
        "rounds": len(rounds),
        "trials_per_s": {system: round(figures[system]["trials_per_s"], 2) for system in SYSTEMS[:3]},
        "reports_per_s": {system: round(figures[system]["reports_per_s"], 2) for system in SYSTEMS[:3]},
        "calls_per_s": {system: round(figures[system]["calls_per_s"], 1) for system in ("platform", "raw_ray")},
        "ratio_to_ray_tune": round(ratio("trials_per_s", "ray_tune"), 1),
        "ratio_to_ray_tune_no_loggers": round(ratio("trials_per_s", "ray_tune_no_loggers"), 1),
        "ratio_to_raw_ray": round(ratio("calls_per_s", "raw_ray"), 3),
        "driver_us_per_trial": {count: round(run["driver_us_per_trial"], 1) for count, run in simulated.items()},
        "driver_memory_mb": {count: round(run["memory_mb"], 1) for count, run in simulated.items()},
        "import_s": round(run_import(), 3),
    }
    resumed = in_fresh_process("resume", 5000 if quick else 1_000_000)
    found |= {"resume_s": round(resumed["resume_s"], 3), "resume_rows": resumed["resume_rows"]}
    firsts = medians([in_fresh_process("first_report", cpus) for _ in range(1 if quick else 5)])
    return found | {key: round(seconds, 3) for key, seconds in firsts.items()}


def show(found: Mapping[str, Any]) -> None:
    """Print the figures for people."""
    table = Table("system", "trials/s", "reports/s", "actor calls/s", "the platform is")
    for system in SYSTEMS:
        table.add(
            system,
            found["trials_per_s"].get(system, ""),
            found["reports_per_s"].get(system, ""),
            found["calls_per_s"].get(system, ""),
            {
                "ray_tune": f"{found['ratio_to_ray_tune']} times as fast",
                "ray_tune_no_loggers": f"{found['ratio_to_ray_tune_no_loggers']} times as fast",
                "raw_ray": f"at {found['ratio_to_raw_ray']:.0%} of its calls",
            }.get(system, ""),
        )
    table.print()
    growth = Table("simulated trials", "driver us/trial", "memory MB")
    for count, cost in found["driver_us_per_trial"].items():
        growth.add(count, cost, found["driver_memory_mb"][count])
    growth.print()
    for key in ("import_s", "resume_s", "resume_rows", "first_report_s", "raw_actor_start_s"):
        print(f"{key:18} {found[key]}")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one short round of everything, within 50 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(do_task(*options.task)))
        return
    found = compare(quick=options.quick)
    show(found)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
