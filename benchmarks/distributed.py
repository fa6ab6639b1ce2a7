"""What distributed trials cost: steps against bare DDP, warm gangs against Ray Train under Tune, bytes on the wire.

Every comparison runs both sides in one run, in turn, on the same model and data:

- steps: all-reduce here against the usual script with DistributedDataParallel, as `torchrun` starts it; two
  processes each, alternating every `chunk` steps; the ratio is the median over the pairs. The quick form runs the
  script's loop in the processes of the gang;
- start: from the assignment of a trial to its first step on two workers: here, for the first trial and for later
  ones, which take the gang over warm; and for `TorchTrainer` in a Ray Tune function, whose time counts from the first
  line of that function (what Tune needs before it is left out, in its favour). The quick form waits for it no longer
  than 5 s and takes these for its time: the ratio is then an upper bound;
- bytes: counted, LSGD with period 64 and codistillation at 1 % of training against all-reduce.

    python -m benchmarks.distributed
    python -m benchmarks.distributed --quick --json
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Where this is started by `uv run`, Ray would build an environment anew for every worker. Read when Ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, each process compiles all that it imports

import torch

from benchmarks.report import Table
from tune_platform.distributed import Gang
from tune_platform.distributed.member import Place
from tune_platform.distributed.process_group import ProcessGroupCommunicator
from tune_platform.trainable import TrialContext
from tune_platform.trainables.classification import ClassificationTrainable

WORKERS = 2
#: A step of some 10 ms a worker on a core: short for training, so that overhead shows.
STEP: Mapping[str, Any] = {
    "task": "synthetic", "examples": 2048, "shape": (3, 16, 16), "model": "cnn", "channels": 32, "batch_size": 16,
    "lr": 0.01, "updates": 1_000_000, "strategy": "all_reduce",
}  # fmt: skip
#: A tiny job, whose time to the first step is all start.
START: Mapping[str, Any] = {
    "task": "synthetic", "examples": 256, "model": "mlp", "lr": 0.1, "updates": 2, "report_every": 1,
    "batch_size": 16, "strategy": "all_reduce",
}  # fmt: skip

#: Seconds that the quick form waits for the first step of a TorchTrainer.
_QUICK_BUDGET_S = 5.0


class Unevaluated(ClassificationTrainable):
    """Evaluates nothing: only steps are timed. Reports when the first step was over."""

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Return the time of day."""
        return {"at": time.time()}


# ------------------------------------------------------------------------------------------ steps


class PlainLoop:
    """The loop of a plain script around DistributedDataParallel, on the processes of `group` (default: all)."""

    def __init__(self, group: Any = None) -> None:
        recipe = Unevaluated(TrialContext(seed=1))
        recipe.config = STEP
        rank = torch.distributed.get_rank(group)
        self._recipe = recipe
        self._model = recipe.build_model(STEP)
        self._wrapped = torch.nn.parallel.DistributedDataParallel(
            self._model, process_group=group, gradient_as_bucket_view=True
        )
        self._optimizer = recipe.build_optimizer(STEP, self._model)
        self._data: Any = recipe.build_data(STEP, rank, WORKERS)
        self._epoch, self._batches = 0, iter(self._data)

    def step_s(self, chunk: int) -> float:
        """Take `chunk` steps; return the seconds of one."""
        started = time.perf_counter()
        for _ in range(chunk):
            batch = next(self._batches, None)
            if batch is None:
                self._epoch += 1
                self._data.set_epoch(self._epoch)
                self._batches = iter(self._data)
                batch = next(self._batches)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._recipe.loss(self._wrapped, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return (time.perf_counter() - started) / chunk

    def let_go(self) -> None:
        """See `Member`: called where the group is given up."""


def serve_plain_loop(chunk: int) -> None:
    """Be one process of the plain script, as `torchrun` starts it. Does a chunk for each line that comes in."""
    torch.distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    loop = PlainLoop()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(loop.step_s(chunk), flush=True)
    torch.distributed.destroy_process_group()


class Script:
    """The processes of the plain script, which wait until they are told to do a chunk."""

    def __init__(self, chunk: int) -> None:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(WORKERS)}
        command = [sys.executable, "-m", "benchmarks.distributed", "--plain-loop", str(chunk)]
        self._processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **shared, "RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(WORKERS)
        ]
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the plain script did not start; its error is above")

    def step_s(self) -> float:
        """Do a chunk; return the seconds of a step on the first process."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        found = []
        for process in self._processes:
            assert process.stdout is not None
            found.append(float(process.stdout.readline()))
        return found[0]

    def close(self) -> None:
        """Wait for the end of the processes."""
        for process in self._processes:
            process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measure_steps(gang: Gang, rounds: int, chunk: int, apart: bool) -> dict[str, float]:
    """Return seconds per step of the gang and of the plain script, and the median ratio of the pairs.

    The plain loop runs in processes of its own (`apart`), or in those of the gang, which saves their start.
    """
    trainable = Unevaluated(TrialContext(seed=1, gang=gang))
    trainable.setup({**STEP, "report_every": chunk})
    group = gang.group()
    if apart:
        script = Script(chunk)
        plain, end = script.step_s, script.close
    else:
        group.open("plain", _plain_loop)

        def plain() -> float:
            return float(group.call("plain", "step_s", chunk)[0].value)

        def end() -> None:
            group.drop("plain")

    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds + 1):
        if number % 2:
            ours.append(float(trainable.step()["step_s"]))
        theirs.append(plain())
        if not number % 2:
            ours.append(float(trainable.step()["step_s"]))
    end()
    trainable.cleanup()
    pairs = [a / b for a, b in zip(ours[1:], theirs[1:], strict=True)]  # the first warms up
    return {
        "allreduce_step_s": statistics.median(ours[1:]),
        "ddp_step_s": statistics.median(theirs[1:]),
        "allreduce_step_ratio_to_ddp": statistics.median(pairs),
    }


def _plain_loop(place: Place) -> PlainLoop:
    assert isinstance(place.comm, ProcessGroupCommunicator)
    return PlainLoop(place.comm.group)


# ------------------------------------------------------------------------------------------ start


def measure_warm_start(trials: int) -> dict[str, float]:
    """Return the seconds from a trial's assignment to its first step: first and later trials on a gang here."""
    from tune_platform import Resources, SearchSpec, run
    from tune_platform.backends.ray import RayBackend

    with tempfile.TemporaryDirectory() as storage:
        spec = SearchSpec(
            trainable=Unevaluated, param_space=dict(START), metric="train_loss", mode="min", num_samples=trials,
            resources=Resources(cpu=1, workers=WORKERS), backend=RayBackend(), storage=storage, searcher="random",
            max_concurrent=1,
        )  # fmt: skip
        results = run(spec)
        reports = results.dataframe(reports=True)
        first = reports[reports["step"] == 1].set_index("trial")["metrics/at"]
        waits = [float(first[trial.number]) - trial.started.timestamp() for trial in results if trial.started]
    return {"cold_start_s": waits[0], "warm_start_s": statistics.median(waits[1:])}


def _train_loop(config: dict[str, Any]) -> None:
    """The job of `START` as users of Ray Train write it."""
    from ray import train
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    recipe = Unevaluated(TrialContext(seed=1))
    recipe.config = START
    model = recipe.build_model(START)
    optimizer = recipe.build_optimizer(START, model)
    wrapped = prepare_model(model)
    rank = train.get_context().get_world_rank()
    batch = next(iter(recipe.build_data(START, rank, WORKERS)))
    recipe.loss(wrapped, batch).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    train.report({"start_s": time.time() - config["started"]})


def _tune_function(config: dict[str, Any]) -> None:
    started = time.time()

    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trainer = TorchTrainer(
        _train_loop, train_loop_config={"started": started},
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}", storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    )  # fmt: skip
    if config["budget_s"] is None:
        trainer.fit()
        return
    fitting = threading.Thread(target=trainer.fit, daemon=True)
    fitting.start()
    fitting.join(config["budget_s"] - (time.time() - started))
    if fitting.is_alive():
        tune.report({"start_s": config["budget_s"]})


def measure_train_under_tune(trials: int, budget_s: float | None = None) -> dict[str, float]:
    """Return the seconds from the first line of the Tune function to the first step of its TorchTrainer's workers.

    A trial that is not over `budget_s` seconds after that line is ended, and counts as having begun then.
    """
    from ray import tune

    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as storage:
        tuner = tune.Tuner(
            tune.with_resources(_tune_function, {"CPU": 1}),
            param_space={"storage": storage, "budget_s": budget_s},
            tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        found = [result.metrics["start_s"] for result in tuner.fit() if result.metrics]
    return {"train_under_tune_start_s": statistics.median(found)}


# ------------------------------------------------------------------------------------------ bytes


def measure_traffic(quick: bool) -> dict[str, float]:
    """Return the bytes per step of LSGD (period 64) and codistillation (1 % of training) over all-reduce's."""
    # Imports torchvision, which takes seconds: not in every process that is timed.
    from benchmarks.counted_bytes import measure_bytes, resnet50_bytes_ratio

    reduced, _ = measure_bytes({"name": "all_reduce"}, 4)
    pulled, formula = measure_bytes({"name": "lsgd", "period": 64}, 64 if quick else 256)
    # Quick: a hundred steps with one exchange in them, which is then spread over the whole period of 2,252 steps.
    codistilled = resnet50_bytes_ratio(steps=100) if quick else resnet50_bytes_ratio()
    share = 100 / round(0.01 * 45 * 5004) if quick else 1.0
    return {
        "lsgd_bytes_ratio": pulled / reduced,
        "lsgd_counted_to_formula": pulled / formula,
        "codistillation_bytes_ratio": codistilled["ratio"] * share,
        "codistillation_bytes_per_step": codistilled["codistillation"] * share,
    }


def main() -> None:
    """Run the comparisons and print them."""
    parser = argparse.ArgumentParser(description="What distributed trials cost")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: within 50 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--plain-loop", type=int, metavar="CHUNK", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain_loop:
        serve_plain_loop(arguments.plain_loop)
        return
    quick = arguments.quick
    torch.set_num_threads(1)
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(measure_traffic, quick)  # takes no times: what is needed later starts beside it
        _start_ray()
        gang = Gang("processes", WORKERS)
        gang.group()
        found: dict[str, float] = counting.result()
    found |= measure_steps(gang, rounds=24 if quick else 60, chunk=10 if quick else 50, apart=not quick)
    gang.close()
    found |= measure_warm_start(3 if quick else 12)
    found |= measure_train_under_tune(1 if quick else 6, _QUICK_BUDGET_S if quick else None)
    found["warm_start_ratio_to_train_under_tune"] = found["warm_start_s"] / found["train_under_tune_start_s"]
    table = Table("figure", "measured", "goal")
    goals = {
        "allreduce_step_ratio_to_ddp": "<= 1.03",
        "warm_start_ratio_to_train_under_tune": "<= 0.1",
        "lsgd_bytes_ratio": "<= 0.01",
        "lsgd_counted_to_formula": "0.99 .. 1.01",
        "codistillation_bytes_ratio": "<= 0.001",
    }
    for name, value in found.items():
        table.add(name, f"{value:.4g}", goals.get(name, ""))
    table.print()
    if arguments.json:
        print(json.dumps(found))


def _start_ray() -> None:
    import ray

    # The workers of a Ray that is started here have this environment.
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    ray.init(address="local", num_cpus=2 * WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


if __name__ == "__main__":
    from benchmarks import distributed

    distributed.main()  # under its own name, by which workers can import what they are sent
