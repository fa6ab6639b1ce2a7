"""Looks at any checkpoint of a policy gradient trial.

    python -m tune_platform.trainables.policy_gradient.analyse CHECKPOINT
        [--what gradient values landscape] [--ray] [--out DIR]

CHECKPOINT is the directory that `tune-platform show EXPERIMENT TRIAL` names (also as an fsspec URL), or any directory
that `save_checkpoint` has written. Prints tables; with --out writes `analysis.json` and figures there. The checkpoint
is only read, and the same seed gives the same numbers, with --ray too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from click import echo

from tune_platform.trainables.policy_gradient import figures
from tune_platform.trainables.policy_gradient.agent import Agent
from tune_platform.trainables.policy_gradient.gradient import KINDS, GradientReport, gradient_report
from tune_platform.trainables.policy_gradient.landscape import LandscapeReport, landscape_report
from tune_platform.trainables.policy_gradient.sampling import Sampler, print_progress
from tune_platform.trainables.policy_gradient.training import STATE_FILE, load_agent
from tune_platform.trainables.policy_gradient.values import BASELINES, ValueReport, value_report

WHAT = ("gradient", "values", "landscape")
_STORED = re.compile(r"(?P<root>.+)/trial-(?P<trial>\d+)/step-(?P<step>\d+)-a\d+/?")


def open_checkpoint(path: str) -> Agent:
    """Return the agent of a checkpoint: of the platform's store (its sums are checked), or a plain directory.

    Raises ValueError where there is none of a policy gradient trial, CheckpointError where one is damaged.
    """
    stored = _STORED.fullmatch(path)
    if stored and ("://" in path or (Path(path) / "manifest.json").is_file()):
        from tune_platform.protocol.reports import CheckpointRef
        from tune_platform.store.checkpoints import CheckpointStorage

        storage = CheckpointStorage(stored["root"])
        name = path.rstrip("/").split("/")[-2:]
        ref = CheckpointRef(int(stored["trial"]), int(stored["step"]), "/".join([storage.root, *name]))
        with storage.restore(ref) as directory:
            return load_agent(directory)
    directory = Path(path)
    if (directory / "files" / STATE_FILE).is_file():
        directory = directory / "files"
    if not directory.is_dir():
        raise ValueError(
            f"there is no directory {path!r}: `tune-platform show EXPERIMENT TRIAL` names a trial's checkpoint"
        )
    return load_agent(directory)


def print_gradient(report: GradientReport) -> None:
    """Print experiment A as a table."""
    echo(f"\nGradient quality at iteration {report.iteration} ({report.kind}; {report.reference_pairs:,} pairs in g*)")
    echo("   pairs  trajectories  pairwise cosine [95 %]      cosine to g* [95 %]         B (pairs)")
    for row in report.qualities:
        echo(
            f"{row.pairs:>8,}  {row.trajectories:>12.1f}"
            f"  {row.pairwise:>6.3f} [{row.pairwise_low:6.3f}, {row.pairwise_high:6.3f}]"
            f"   {row.true:>6.3f} [{row.true_low:6.3f}, {row.true_high:6.3f}]   {row.noise_scale:>10,.0f}"
        )


def print_values(report: ValueReport) -> None:
    """Print experiment B as tables."""
    echo(f"\nValue prediction at iteration {report.iteration}, means of {len(report.errors)} repetitions")
    for name in vars(report.errors[0]):
        echo(f"  {name:<30} {float(np.mean([getattr(row, name) for row in report.errors])):8.3f}")
    echo(f"  {'ev of V* (held out)':<30} {report.true_explained_variance:8.3f}   fitted to {report.true_pairs:,} pairs")
    sizes = [row.pairs for row in report.reduction[BASELINES[0]]]
    echo("\nPairwise cosine by baseline\n  pairs   " + "".join(f"{size:>9,}" for size in sizes))
    for baseline in BASELINES:
        echo(f"  {baseline:<8}" + "".join(f"{row.pairwise:>9.3f}" for row in report.reduction[baseline]))


def print_landscape(report: LandscapeReport) -> None:
    """Print experiment C as a table."""
    echo(f"\nLandscape along the step at iteration {report.iteration} (step norm {report.step_norm:.3f})")
    echo(f"      a   S({report.small_pairs:,})  S({report.large_pairs:,})   reward (s.e.)")
    for index, along in enumerate(report.along):
        returns = report.reward[index, 0]
        error = returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else float("nan")
        echo(
            f"  {along:5.2f}  {report.small[index, 0]:9.4f}  {report.large[index, 0]:9.4f}"
            f"  {returns.mean():9.1f} ({error:.1f})"
        )
    echo("  " + ", ".join(f"{name} {value:.3g}" for name, value in report.scalars.items()))


def write_figures(results: dict[str, Any], out: Path) -> list[Path]:
    """Write the figures of `results` (of `analyse`) into `out`; return their paths."""
    stage = f"iteration {results['iteration']}"
    title, made = results["env_id"], {}
    if "gradient" in results:
        report = results["gradient"]
        made["gradient"] = figures.gradient_figure({stage: report["qualities"]}, title, report["marker"])
    if "values" in results:
        made["values"] = figures.value_figure({stage: results["values"]["errors"]}, title)
        made["baselines"] = figures.reduction_figure({stage: [results["values"]["reduction"]]}, title)
    if "landscape" in results:
        report = results["landscape"]
        draw = figures.surface_figure if len(report["random"]) > 1 else figures.line_figure
        made["landscape"] = draw({stage: report}, title)
    paths = []
    for name, figure in made.items():
        figures.save(figure, out / f"{name}.png")
        paths.append(out / f"{name}.png")
    return paths


def analyse(agent: Agent, sampler: Sampler, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the analyses that were asked for, print each as it is done, and return them as plain values."""
    results: dict[str, Any] = {
        "env_id": agent.settings.env_id, "algorithm": agent.settings.algorithm, "iteration": agent.iteration,
        "seed": arguments.seed,
    }  # fmt: skip
    sizes = sorted(arguments.pairs)
    if "gradient" in arguments.what:
        report = gradient_report(
            agent, sampler, arguments.seed, sizes=sizes, estimates=arguments.estimates,
            reference_pairs=arguments.reference, kind=arguments.kind,
        )  # fmt: skip
        print_gradient(report)
        results["gradient"] = report.to_dict()
    if "values" in arguments.what:
        values = value_report(
            agent, sampler, arguments.seed, sizes=sizes, estimates=arguments.estimates,
            true_pairs=arguments.reference, repetitions=arguments.repetitions,
        )  # fmt: skip
        print_values(values)
        results["values"] = values.to_dict()
    if "landscape" in arguments.what:
        along = sorted({*np.linspace(0, 3, arguments.grid).tolist(), 1.0})  # the step itself is always measured
        random = np.linspace(0, 3, arguments.grid_random) if arguments.grid_random > 1 else [0.0]
        landscape = landscape_report(
            agent, sampler, arguments.seed, along=along, random=list(random),
            large_pairs=arguments.reference, episodes=arguments.episodes,
        )  # fmt: skip
        print_landscape(landscape)
        results["landscape"] = landscape.to_dict()
    return results


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog=f"python -m {__spec__.name}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("checkpoint")
    made.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    made.add_argument("--ray", action="store_true", help="sample in Ray tasks, on RAY_ADDRESS or a local Ray")
    made.add_argument("--out", type=Path, help="write analysis.json and figures into this directory")
    made.add_argument("--pairs", nargs="+", type=int, default=[500, 1000, 2000, 8000], help="state-action pairs N")
    made.add_argument("--estimates", type=int, default=10, help="independent estimates (k)")
    made.add_argument("--reference", type=int, default=100_000, help="pairs of g*, of V* and of the large surrogate")
    made.add_argument("--kind", choices=KINDS, default="gradient", help="cosines of gradients, or of the steps taken")
    made.add_argument("--repetitions", type=int, default=5, help="of the value prediction")
    made.add_argument("--grid", type=int, default=7, help="points along the step, from 0 to 3 steps")
    made.add_argument("--grid-random", type=int, default=1, help="points along the random direction; 1: the step alone")
    made.add_argument("--episodes", type=int, default=20, help="per point of the landscape")
    made.add_argument("--seed", type=int, default=0)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 2 for a checkpoint that cannot be looked at."""
    arguments = parser().parse_args(argv)
    if min(arguments.pairs) < 2 or arguments.estimates < 2:
        echo("--pairs and --estimates are at least 2: one estimate cannot be compared", err=True)
        return 2
    from tune_platform.errors import CheckpointError

    try:
        agent = open_checkpoint(arguments.checkpoint)
    except (ValueError, CheckpointError) as error:
        echo(error, err=True)
        return 2
    settings = agent.settings
    echo(
        f"{settings.algorithm.upper()} on {settings.env_id} after {agent.iteration} iterations"
        f" of {settings.pairs:,} pairs"
    )
    results = analyse(agent, Sampler(ray=arguments.ray, progress=print_progress), arguments)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "analysis.json").write_text(json.dumps(results, indent=1))
        written = [arguments.out / "analysis.json", *write_figures(results, arguments.out)]
        echo("\nwritten: " + ", ".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
