"""`lineage`: the family tree of a population, and the schedule of every parameter that a trial's weights have had."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tune_platform.cli.common import (
    experiment_argument,
    is_population,
    json_option,
    load,
    print_json,
    storage_option,
    talk,
)
from tune_platform.cli.format import table, width
from tune_platform.progress.text import number

if TYPE_CHECKING:
    from tune_platform.results.lineage import Clone, Lineage, Segment


@click.command()
@experiment_argument
@click.argument("trial", type=int, required=False)
@click.option("--export", type=click.Path(dir_okay=False), help="Write TRIAL's schedule, for the scheduler replay.")
@storage_option
@json_option
def lineage(experiment: str, trial: int | None, export: str | None, storage: str | None, as_json: bool) -> None:
    """Show who went on from whose checkpoint; with TRIAL, the schedule that led to its weights.

    \b
    Example: tune-platform lineage digits 4
    """
    results = load(experiment, storage)
    if trial is not None:
        results.trial(trial)  # a clear error for one that does not exist
    if export is not None:
        if trial is None:
            raise click.UsageError("--export needs TRIAL: whose schedule? `tune-platform best` names the winner")
        _export(results.schedule(trial), export)
        talk(f"the schedule of trial {trial} is in {export}: run it with schedule: {{name: replay, policy: {export}}}")
        return
    found = results.family()
    if as_json:
        print_json(_segments_json(found.schedule(trial)) if trial is not None else _clones_json(found.clones))
    elif not found.clones:
        why = "its scheduler makes no clones"
        if is_population(results.row()):
            kept = any(each.checkpoint for each in results.trials())
            why = (
                "none was among the lowest so far" if kept else "none has any; write report(metrics, checkpoint=state)"
            )
        talk(f"no trial of {experiment!r} went on from another's checkpoint: {why}")
    elif trial is None:
        click.echo("\n".join(_tree(found)))
    else:
        click.echo(_schedule(found.schedule(trial)))


def _export(schedule: list[dict[str, Any]], path: str) -> None:
    import yaml

    with Path(path).open("w", encoding="utf-8") as file:
        yaml.safe_dump(schedule, file, sort_keys=False)


def _tree(found: Lineage) -> list[str]:
    """Each trial, and under it what was cloned from it, in order."""
    lines: list[str] = []
    for trial in found.trials:
        children = [clone for clone in found.clones if clone.source == trial]
        own = [clone for clone in found.clones if clone.trial == trial]
        replaced = f", replaced {len(own)} time{'s' if len(own) > 1 else ''}" if own else ""
        lines.append(f"trial {trial}{replaced}")
        for index, clone in enumerate(children):
            arm = "└─" if index == len(children) - 1 else "├─"
            at = "?" if clone.source_step is None else clone.source_step
            changes = clone.reason.partition("; ")[2]
            lines.append(f"  {arm} step {at} -> trial {clone.trial} at step {clone.step}  {changes}".rstrip())
    return lines


def _schedule(segments: list[Segment]) -> str:
    from tune_platform.results import flatten

    configs = [flatten(segment.config) for segment in segments]
    names = list(dict.fromkeys(name for config in configs for name in config))
    vary = [name for name in names if len({repr(config.get(name)) for config in configs}) > 1] or names
    rows = [
        [str(s.first), "end" if s.last is None else str(s.last), str(s.trial), *(number(c.get(n)) for n in vary)]
        for s, c in zip(segments, configs, strict=True)
    ]
    return table(("from step", "to", "trial", *vary), rows, width())


def _clones_json(clones: list[Clone]) -> list[dict[str, Any]]:
    return [
        {
            "trial": clone.trial,
            "step": clone.step,
            "source": clone.source,
            "source_step": clone.source_step,
            "config": clone.config,
            "reason": clone.reason,
            "time": clone.time.timestamp(),
        }
        for clone in clones
    ]


def _segments_json(segments: list[Segment]) -> list[dict[str, Any]]:
    return [{"trial": s.trial, "from": s.first, "to": s.last, "config": s.config} for s in segments]
