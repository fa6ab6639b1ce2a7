"""Re-tests the findings of Ilyas et al. (2020) in shape, at a few stages of training, on a MuJoCo task and a small one.

    python -m tune_platform.trainables.policy_gradient.study --quick --out results/        two core-hours, else a night
    python -m tune_platform.trainables.policy_gradient.study --summarise --out results/    tables and figures of it

Each agent is trained, and looked at when it reaches a stage. One line of `results.jsonl` is written for each, and lines
that are there are not measured again: an interrupted study goes on where it was. All seeds follow from the agent's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.gradient import report_on
from tune_platform.trainables.policy_gradient.landscape import landscape_report
from tune_platform.trainables.policy_gradient.sampling import Sampler, Snapshot, print_progress
from tune_platform.trainables.policy_gradient.settings import Settings
from tune_platform.trainables.policy_gradient.training import Training
from tune_platform.trainables.policy_gradient.values import many_runs, value_report
from tune_platform.trainables.runtime import stream_seed
from tune_platform.trainables.studies.results import Results
from tune_platform.trainables.studies.tables import put_into


@dataclass(frozen=True)
class Plan:
    """What is measured of the agents of one task. `stages` are iterations; `config` goes to `Settings.of`."""

    task: str
    config: dict[str, Any]
    stages: tuple[int, ...]
    seeds: int
    sizes: tuple[int, ...]
    reference: int
    repetitions: int
    along: tuple[float, ...]
    episodes: int
    #: Further steps from each stage, of which only the start and the end are measured.
    steps: int
    #: Points of the plane along the random direction and episodes of each, for the first agent; 0: no plane.
    plane: int = 0
    plane_episodes: int = 0
    values: bool = True

    @property
    def name(self) -> str:
        """Task and variant."""
        return f"{self.task}/{self.config['variant']}"


_CARTPOLE = Plan(
    "CartPole", {"env_id": "CartPole-v1", "variant": "ppo", "envs": 1, "iterations": 60, "lr": 3e-4, "minibatches": 8},
    stages=(0, 5, 8), seeds=5, sizes=(250, 500, 1000, 2000, 4000), reference=40_000, repetitions=2,
    along=(0, 0.5, 1, 2, 3), episodes=30, steps=4,
)  # fmt: skip
_HOPPER = Plan(
    "Hopper", {"env_id": "Hopper-v5", "variant": "ppo", "envs": 1, "iterations": 488, "minibatches": 8},
    stages=(0, 15, 45, 150, 300, 450), seeds=5, sizes=(250, 500, 1000, 2000), reference=20_000, repetitions=2,
    along=(0, 0.5, 1, 2, 3), episodes=20, steps=4, plane=4, plane_episodes=16,
)  # fmt: skip
_TRPO = {"variant": "trpo"}
#: With 8 minibatches where the released code has 32: the update takes a quarter of the time.
QUICK = (
    _CARTPOLE,
    _HOPPER,
    replace(_HOPPER, config={**_HOPPER.config, **_TRPO}, stages=(45,), values=False, plane=0),
)
#: The agents that learn without a baseline, so many iterations; those with one are the agents of the study itself.
QUICK_BASELINE = ((_CARTPOLE, 8), (_HOPPER, 45))
#: In full: the paper's stages and numbers of samples as far as one machine goes in a night.
FULL_SIZES = (100, 500, 1000, 2000, 8000, 32_000, 128_000)
FULL = tuple(
    replace(plan, config={**plan.config, "minibatches": 32}, seeds=10, sizes=FULL_SIZES, reference=1_000_000,
            episodes=200, steps=20, plane=7, plane_episodes=50, repetitions=10,
            stages=plan.stages if plan.task == "CartPole" else (0, 150, 300, 450))
    for plan in QUICK
)  # fmt: skip
FULL_BASELINE = ((FULL[0], 8), (FULL[1], 450))


def trained(plan: Plan, seed: int, until: Sequence[int]) -> Iterator[tuple[Training, list[dict[str, Any]]]]:
    """Train one agent, and yield at each of the iterations `until`, with the metrics since the one before."""
    settings = Settings.of({**plan.config, "eval_every": 10**9, "eval_episodes": 1})
    training = Training(settings, stream_seed(0, "study", plan.name, seed))
    metrics: list[dict[str, Any]] = []
    for stage in until:
        while training.agent.iteration < stage:
            metrics.append(training.iteration())
        yield training, metrics
        metrics = []
    training.close()


def measure(agent: Agent, plan: Plan, seed: int, first: bool, sampler: Sampler) -> dict[str, Any]:
    """Run all analyses on one agent at one stage and return their results as plain values."""
    own = stream_seed(0, "study", plan.name, seed, agent.iteration)
    snapshot = Snapshot.of(agent)
    streams = sampler.streams("gradient estimates", snapshot, own, 10, max(plan.sizes))
    many = many_runs(agent, sampler, own, plan.reference)
    large = [run.batch for run in many]
    usual = max(size for size in plan.sizes if size <= agent.settings.pairs)  # about what the agent itself uses
    found: dict[str, Any] = {
        "gradient": report_on(agent, streams, large, own, sizes=plan.sizes).to_dict(),
        "steps": report_on(agent, streams[:5], [], own, sizes=(usual,), kind="step").to_dict(),
    }
    if plan.values:
        found["values"] = value_report(
            agent, sampler, own, sizes=plan.sizes, repetitions=plan.repetitions, streams=streams, many=many,
        ).to_dict()  # fmt: skip
    lines: list[dict[str, Any]] = []
    start_returns = None
    for number in range(1 + plan.steps):
        along = plan.along if number == 0 else (0.0, 1.0)
        batch = sampler.streams(
            "batch of the step", snapshot, stream_seed(own, "step", number), 1, agent.settings.pairs
        )
        report = landscape_report(
            agent, sampler, own, along=along, episodes=plan.episodes, batch=batch[0], large=large,
            start_returns=start_returns,
        )  # fmt: skip
        start_returns = report.reward[0, 0]  # the same episodes for every step from here
        lines.append(report.to_dict())
    found["lines"] = lines
    found["return"] = lines[0]["scalars"]["reward_start"]
    if first and plan.plane and agent.iteration:
        found["plane"] = landscape_report(
            agent, sampler, own, along=plan.along, random=tuple(3 * i / (plan.plane - 1) for i in range(plan.plane)),
            episodes=plan.plane_episodes, large=large,
        ).to_dict()  # fmt: skip
    return found


def run(plans: Sequence[Plan], baselines: Sequence[tuple[Plan, int]], results: Results, sampler: Sampler) -> None:
    """Train and measure whatever is not among the results yet."""
    for seed in range(max((plan.seeds for plan in plans), default=0)):  # one agent of everything before the second
        for plan in plans:
            if seed < plan.seeds:
                run_agent(plan, seed, results, sampler)
        for plan, iterations in baselines:
            inputs = {"kind": "no baseline", "name": plan.name, "seed": seed}
            if seed < plan.seeds and inputs not in results:
                without = replace(plan, config={**plan.config, "baseline": "zero"})
                for _, metrics in trained(without, seed, (iterations,)):
                    returns = [row["train_return"] for row in metrics]
                    results.add(inputs, {"returns": returns})
                    sampler.say(f"{plan.name}, agent {seed}, no baseline: return {returns[-1]:.1f}")


def run_agent(plan: Plan, seed: int, results: Results, sampler: Sampler) -> None:
    """Train one agent of a plan, and measure it at the stages that are missing."""
    have = {row["stage"] for row in results.rows(kind="stage", name=plan.name, seed=seed)}
    if have >= set(plan.stages):
        return
    for training, metrics in trained(plan, seed, plan.stages):
        stage = training.agent.iteration
        if stage in have:
            continue
        started = time.process_time()
        found = measure(training.agent, plan, seed, seed == 0, sampler)
        names = ("train_return", "kl", "max_ratio", "env_steps", "explained_variance")
        trace = {name: [row[name] for row in metrics] for name in names}
        results.add(
            {"kind": "stage", "name": plan.name, "seed": seed, "stage": stage},
            {"trace": trace, "cpu_s": time.process_time() - started, **found},
        )  # fmt: skip
        sampler.say(f"{plan.name}, agent {seed}, iteration {stage}: return {found['return']:.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__spec__.name}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="what the docs page shows: five agents a task")
    parser.add_argument("--only", help="only plans whose name has this in it, such as Hopper/trpo")
    parser.add_argument("--out", type=Path, default=Path("policy_gradient_study"))
    parser.add_argument("--ray", action="store_true", help="sample in Ray tasks")
    parser.add_argument("--summarise", action="store_true", help="measure nothing more")
    parser.add_argument("--page", type=Path, help="put the tables between the markers of this Markdown page")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    plans: Sequence[Plan] = QUICK if arguments.quick else FULL
    baselines: Sequence[tuple[Plan, int]] = QUICK_BASELINE if arguments.quick else FULL_BASELINE
    if arguments.only:
        plans = tuple(plan for plan in plans if arguments.only in plan.name)
        baselines = tuple(entry for entry in baselines if arguments.only in entry[0].name)
    results = Results(arguments.out / "results.jsonl")
    if not arguments.summarise:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "plans.json").write_text(json.dumps([asdict(plan) for plan in plans], indent=1))
        run(plans, baselines, results, Sampler(ray=arguments.ray, progress=print_progress))
    from tune_platform.trainables.policy_gradient.summary import MARKERS, summarise

    text = summarise(results.rows(), arguments.out)
    if arguments.page is not None:
        put_into(arguments.page, MARKERS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
