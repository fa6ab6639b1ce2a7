"""`check`: all that can be known of a spec before anything starts."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from tune_platform.cli.common import json_option, print_json, talk
from tune_platform.cli.format import table, width
from tune_platform.cli.run import overrides_of, spec_argument, spec_options
from tune_platform.errors import ExperimentError
from tune_platform.progress.text import duration, number
from tune_platform.protocol.configs import shown
from tune_platform.protocol.text import choices_of

if TYPE_CHECKING:
    from tune_platform.spec import SearchSpec

SAMPLES = 10


@click.command()
@spec_argument
@spec_options
@click.option("--explain", is_flag=True, help="Print every value of the spec with where it comes from.")
@json_option
def check(spec: Path, explain: bool, as_json: bool, **options: Any) -> None:
    """Check a spec, starting nothing.

    Its values, its entrypoint, its space; shows ten sample configs and the resources that they need.

    \b
    Example: tune-platform check examples/digits.yaml --explain
    """
    from tune_platform.spec import explain as explain_sources
    from tune_platform.spec import resolve

    search, sources = resolve(spec, overrides=overrides_of(options))
    warnings = search.check() + _growth(search)
    samples = _samples(search)
    needs = [search.resources_for(config) for config in samples]
    resources = list(dict.fromkeys(map(str, needs)))
    budget, more = _budget(search, [(each.cpu * each.workers, each.gpu * each.workers) for each in needs])
    warnings += more
    if as_json:
        print_json(
            {
                "spec": search.to_dict(),
                "sources": sources,
                "parameters": [
                    {"name": p.name, **p.domain.to_dict(), "when": p.condition} for p in search.space.parameters()
                ],
                "grid_size": search.space.grid_size,
                "trials": search.trials,
                "samples": samples,
                "resources": resources,
                "budget": budget,
                "chosen": search.chosen(),
                "warnings": warnings,
            }
        )
        return
    if explain:
        click.echo(explain_sources(search, sources) + "\n")
    click.echo(_report(search, samples, resources, budget))
    for line in search.chosen():
        talk(f"chosen, since the spec names none: {line}")
    for warning in warnings:
        talk(f"{click.style('warning', fg='yellow')}: {warning}")
    talk(f"{spec}: the spec is sound; nothing was started")


def _growth(spec: SearchSpec) -> list[str]:
    """Say whether an experiment of this name, in a folder, has fewer choices, and whether it can go on with these."""
    from tune_platform.continuation import check_same
    from tune_platform.location import Location
    from tune_platform.store.sql import open_store

    if not spec.name or Location(spec.storage).is_url:
        return []
    with contextlib.suppress(ExperimentError, OSError), open_store(spec.storage) as store:
        if spec.name in store.names():
            with store.open(spec.name, readonly=True) as experiment:
                spec = spec.as_begun(experiment.spec)
                if spec.added_choices(experiment.spec):
                    try:
                        more = choices_of(check_same(spec, experiment))
                    except ExperimentError as error:
                        return [str(error)]
                    return [f"experiment {spec.name!r} has fewer choices; `run --if-exists resume` adds {more}"]
    return []


def _samples(spec: SearchSpec) -> list[dict[str, Any]]:
    from tune_platform.protocol.seeds import rng

    return [spec.space.sample(rng(spec.seed, each, "check")) for each in range(SAMPLES)]


def _budget(spec: SearchSpec, needs: list[tuple[float, float]]) -> tuple[list[str], list[str]]:
    """Say how long the budget lasts while as many trials run as may; and what of it is odd.

    `needs`: CPUs and GPUs of sample trials. How long a step takes is not known here: trials may end before.
    """
    budget, wide = spec.budget, spec.max_concurrent or 1
    gpus = wide * fmean(gpu for _, gpu in needs)
    cpus = wide * fmean(cpu for cpu, _ in needs)
    at = f"at {wide} {'trial' if wide == 1 else 'trials'} at a time"
    said, odd = [], []
    if budget.gpu_hours is not None and gpus:
        said.append(f"{budget.gpu_hours:g} GPU hours last {duration(budget.gpu_hours * 3600 / gpus)} {at}")
    elif budget.gpu_hours is not None:
        odd.append("budget.gpu_hours: trials hold no GPU (resources.gpu), so this never ends the search")
    if budget.cost is not None:
        hourly = gpus * budget.cost.gpu + cpus * budget.cost.cpu
        if hourly:
            lasts = duration(budget.cost.limit * 3600 / hourly)
            said.append(f"a cost of {budget.cost.limit:g} lasts {lasts} {at}, which cost {hourly:g} an hour")
        else:
            odd.append("budget.cost: trials hold nothing that has a price, so this never ends the search")
    if budget.deadline is not None:
        left = datetime.fromisoformat(budget.deadline).timestamp() - time.time()
        if left > 0:
            said.append(f"the deadline {budget.deadline} comes in {duration(left)}")
        else:
            odd.append(f"budget.deadline: {budget.deadline} is past, so the search ends as soon as it begins")
    return said, odd


def _report(spec: SearchSpec, samples: list[dict[str, Any]], resources: list[str], budget: list[str]) -> str:
    objectives = ", ".join(f"{mode} {metric}" for metric, mode in zip(spec.metrics, spec.modes, strict=True))
    form = spec.to_dict()
    wide = f"{spec.max_concurrent} at a time" if spec.max_concurrent else "as many at a time as fit"
    lines = [
        f"name        {spec.name or '-'}",
        f"trainable   {form['entrypoint']}",
        f"objective   {objectives}",
        f"search      {_part(form['search'])}",
        f"schedule    {_part(form['schedule'])}",
        f"trials      {'no limit' if spec.trials is None else spec.trials}, {wide}",
        f"resources   {' or '.join(resources)} for each trial",
        *(f"budget      {line}" for line in budget),
        *_repeats(spec),
        f"grid size   {spec.space.grid_size}",
        f"storage     {spec.storage}",
    ]
    if spec.space.define_by_run:
        lines.append("\nspace: a function of the trial, so its parameters are known only by sampling")
    else:
        rows = [(p.name, _values(p.domain.to_dict()), p.condition or "") for p in spec.space.parameters()]
        lines += ["", table(("parameter", "values", "when"), rows, width())]
    lines += [f"constraint  {rule.text}" for rule in spec.space.constraints]
    lines += _schedule(spec)
    return "\n".join([*lines, "", f"{len(samples)} sample configs:", _samples_table(samples)])


def _repeats(spec: SearchSpec) -> list[str]:
    """Say how often each config is tried, and of how many there will be so many trials."""
    if spec.times == 1:
        return []
    text = f"repeats     each config is tried {spec.times} times, with other seeds, and ranked by the mean"
    sizes = [None] if spec.space.define_by_run else [one.domain.size for one in spec.space.parameters()]
    end = "" if None in sizes else "; where all have been, the best ones are tried again"
    return [text + (f": {-(-spec.trials // spec.times)} configs" if spec.trials else "") + end]


def _schedule(spec: SearchSpec) -> list[str]:
    """Say what the scheduler does with the trials: the rungs, and what is saved; nothing where it cannot tell.

    Where the course of the search decides (no `forecast`), a scheduler says in a sentence what is known (`outline`).
    """
    scheduler = spec.make_scheduler()
    forecast, outline = (getattr(scheduler, name, None) for name in ("forecast", "outline"))
    found = forecast(spec.trials) if forecast is not None and spec.trials else None
    if found is None:
        return ["", f"expected    {outline(spec.trials)}"] if outline is not None and spec.trials else []
    several = len({bracket for bracket, _, _ in found.rungs}) > 1
    rows, spent, before = [], 0.0, (-1, 0.0)
    for bracket, level, trials in found.rungs:
        if bracket != before[0]:
            spent, before = 0.0, (bracket, 0.0)
        spent += (level - before[1]) * trials
        before = bracket, level
        rows.append([*([str(bracket)] if several else []), f"{level:g}", str(trials), f"{spent:g}"])
    # The last row of a bracket has its budget.
    head = [*(["bracket"] if several else []), found.resource, "trials", f"{found.resource}s so far"]
    total = f"{found.total:g} {found.resource}s in all, {found.saved:.0%} less than all trials to the end"
    return ["", table(head, rows), f"expected    {total}"]


def _samples_table(samples: list[dict[str, Any]]) -> str:
    from tune_platform.results import flatten

    configs = [flatten(shown(config)) for config in samples]
    names = list(dict.fromkeys(name for config in configs for name in config))
    rows = [[number(config.get(name)) for name in names] for config in configs]
    return table(names, rows) if names else "{}"


def _values(domain: dict[str, Any]) -> str:
    """Return "float 0.0001 to 0.3, log" or "choice of mlp, cnn"."""
    kind = str(domain.get("type", "?"))
    if "values" in domain:
        return f"{kind} of {', '.join(number(value) for value in domain['values'])}"
    words = [f"{kind} {number(domain['low'])} to {number(domain['high'])}"] if "low" in domain else [kind]
    for key, value in domain.items():
        if key not in ("type", "low", "high") and value not in (None, False):
            words.append(key if value is True else f"{key} {number(value)}")
    return ", ".join(words)


def _part(part: dict[str, Any]) -> str:
    if "name" not in part:
        return str(part)
    options = ", ".join(f"{k} {v}" for k, v in part.items() if k != "name" and v not in (None, [], {}))
    return f"{part['name']} ({options})" if options else str(part["name"])
