"""What distributed trials cost: steps against bare DDP, warm gangs against Ray Train under Tune, bytes on the wire.

Every comparison runs both sides in one run, in turn, on the same model and data:

- steps: all-reduce here against the usual script with DistributedDataParallel, as `torchrun` starts it; two
  processes each, alternating every `chunk` steps; the ratio is the median over the pairs;
- start: from the assignment of a trial to its first step on two workers: here, for the first trial and for later
  ones, which take the gang over warm; and for `TorchTrainer` in a Ray Tune function, whose time counts from the first
  line of that function (what Tune needs before it is left out, in its favour);
- bytes: counted, LSGD with period 64 and codistillation at 1 % of training against all-reduce.

    python -m benchmarks.distributed
    python -m benchmarks.distributed --quick --json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Where this is started by `uv run`, Ray would build an environment anew for every worker. Read when Ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import torch

from benchmarks.report import Table
from trainables.classification import ClassificationTrainable
from trainables.strategies import STRATEGIES
from tune_platform.distributed import DistributedTrainable, Gang
from tune_platform.trainable import TrialContext

WORKERS = 2
#: A step of some 10 ms a worker on a core: short for training, so that overhead shows.
STEP: Mapping[str, Any] = {
    "task": "synthetic", "examples": 2048, "shape": (3, 16, 16), "model": "cnn", "channels": 32, "batch_size": 64,
    "lr": 0.01, "updates": 1_000_000, "strategy": "all_reduce",
}  # fmt: skip
#: A tiny job, whose time to the first step is all start.
START: Mapping[str, Any] = {
    "task": "synthetic", "examples": 256, "model": "mlp", "lr": 0.1, "updates": 2, "report_every": 1,
    "batch_size": 16, "strategy": "all_reduce",
}  # fmt: skip


class Unevaluated(ClassificationTrainable):
    """Evaluates nothing: only steps are timed. Reports when the first step was over."""

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Return the time of day."""
        return {"at": time.time()}


# ------------------------------------------------------------------------------------------ steps


def bare_ddp(rounds: int, chunk: int) -> None:
    """Train as a plain script does: what `torchrun` runs on each process. Reads a line for each chunk to do."""
    torch.distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    recipe = _recipe()
    rank = torch.distributed.get_rank()
    model = recipe.build_model(STEP)
    wrapped = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = recipe.build_optimizer(STEP, model)
    data: Any = recipe.build_data(STEP, rank, WORKERS)
    epoch, batches = 0, iter(data)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in range(rounds):
        sys.stdin.readline()
        started = time.perf_counter()
        for _ in range(chunk):
            batch = next(batches, None)
            if batch is None:
                epoch += 1
                data.set_epoch(epoch)
                batches = iter(data)
                batch = next(batches)
            optimizer.zero_grad(set_to_none=True)
            loss = recipe.loss(wrapped, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        sys.stdout.write(f"{(time.perf_counter() - started) / chunk}\n")
        sys.stdout.flush()
    torch.distributed.destroy_process_group()


def _recipe() -> Unevaluated:
    recipe = Unevaluated(TrialContext(seed=1))
    recipe.config = STEP
    return recipe


class BareDDP:
    """The processes of the plain script, which wait until they are told to do a chunk."""

    def __init__(self, rounds: int, chunk: int) -> None:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(WORKERS)}
        command = [sys.executable, "-m", "benchmarks.distributed", "--bare-ddp", str(rounds), str(chunk)]
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


def measure_steps(rounds: int, chunk: int) -> dict[str, float]:
    """Return seconds per step here and in the plain script, and the median ratio of the pairs."""
    bare = BareDDP(rounds + 1, chunk)
    gang = Gang("processes", WORKERS)
    trainable = Unevaluated(TrialContext(seed=1, gang=gang))
    trainable.setup({**STEP, "report_every": chunk})
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds + 1):
        if number % 2:
            ours.append(float(trainable.step()["step_s"]))
        theirs.append(bare.step_s())
        if not number % 2:
            ours.append(float(trainable.step()["step_s"]))
    bare.close()
    trainable.cleanup()
    gang.close()
    pairs = [a / b for a, b in zip(ours[1:], theirs[1:], strict=True)]  # the first warms up
    return {
        "allreduce_step_s": statistics.median(ours[1:]),
        "ddp_step_s": statistics.median(theirs[1:]),
        "allreduce_step_ratio_to_ddp": statistics.median(pairs),
    }


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
        waits = [float(first[trial.number]) - float(trial.started or 0.0) for trial in results.trials()]
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
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    started = time.time()
    trainer = TorchTrainer(
        _train_loop, train_loop_config={"started": started},
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}", storage_path=config["storage"],
            callbacks=[TuneReportCallback()],
        ),
    )  # fmt: skip
    trainer.fit()


def measure_train_under_tune(trials: int) -> dict[str, float]:
    """Return the seconds from the first line of the Tune function to the first step of its TorchTrainer's workers."""
    from ray import tune

    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            tune.with_resources(_tune_function, {"CPU": 1}),
            param_space={"storage": storage},
            tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        found = tuner.fit()
    return {"train_under_tune_start_s": statistics.median(result.metrics["start_s"] for result in found)}


# ------------------------------------------------------------------------------------------ bytes


class Counted(DistributedTrainable):
    """A million parameters and next to no work."""

    strategies = STRATEGIES

    def build_model(self, config: Mapping[str, Any]) -> torch.nn.Module:
        """Return one layer of 1,000 x 1,000."""
        return torch.nn.Linear(1000, 1000, bias=False)

    def build_data(self, config: Mapping[str, Any], rank: int, world_size: int) -> list[torch.Tensor]:
        """Return the same small batch."""
        return [torch.ones(1, 1000)]

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the mean output."""
        found: torch.Tensor = model(batch).mean()
        return found


def measure_bytes(strategy: Mapping[str, Any], updates: int, workers: int = WORKERS) -> tuple[float, float]:
    """Return the bytes per step over all links, counted, and by the strategy's formula."""
    trainable = Counted(TrialContext(seed=1, gang=Gang("threads", workers)))
    trainable.setup({"strategy": dict(strategy), "updates": updates, "report_every": updates, "lr": 0.0})
    counted = float(trainable.step()["bytes_per_step"])
    options = {name: value for name, value in strategy.items() if name != "name"}
    kind = STRATEGIES[str(strategy["name"])]
    formula = kind.bytes_per_step(1_000_000, workers, {**kind.DEFAULTS, **options})
    trainable.cleanup()
    return counted, formula


def measure_traffic(quick: bool) -> dict[str, float]:
    """Return the bytes per step of LSGD (period 64) and codistillation (1 % of training) over all-reduce's."""
    from benchmarks.studies.codistillation import resnet50_bytes_ratio

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


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Run the comparisons and print them."""
    parser = argparse.ArgumentParser(description="What distributed trials cost")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: within 50 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--bare-ddp", nargs=2, type=int, metavar=("ROUNDS", "CHUNK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_ddp:
        bare_ddp(*arguments.bare_ddp)
        return
    quick = arguments.quick
    torch.set_num_threads(1)
    found: dict[str, float] = measure_traffic(quick)
    found |= measure_steps(rounds=5 if quick else 30, chunk=20 if quick else 100)
    found |= _starts(quick)
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


def _starts(quick: bool) -> dict[str, float]:
    import ray

    root = str(Path(__file__).resolve().parents[1])
    ray.init(
        address="local", num_cpus=2 * WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )  # fmt: skip
    try:
        return measure_warm_start(3 if quick else 12) | measure_train_under_tune(1 if quick else 6)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
