"""What a page says in words and small tables: each section is a function of what is known."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pprint import pformat
from typing import Any
from urllib.parse import quote

import dash_mantine_components as dmc
import numpy as np
import yaml
from dash import html

from tune_platform.dashboard import parts
from tune_platform.dashboard.actions import asked
from tune_platform.dashboard.parts import card, copied, lasting, link, number, pairs, table
from tune_platform.dashboard.source import Source
from tune_platform.plots import View
from tune_platform.plots.crashes import groups
from tune_platform.plots.observations import is_seed, same_config
from tune_platform.plots.workers import gpus_of
from tune_platform.protocol.configs import shown
from tune_platform.protocol.requests import TAGS
from tune_platform.results.lineage import Segment
from tune_platform.results.tables import flatten
from tune_platform.store.sql import open_store


@dataclass(frozen=True)
class Scene:
    """What a section is drawn from: `trial` is that of the page, if it is a trial's; `control` whether one may act."""

    source: Source
    view: View
    trial: int | None
    selection: Sequence[int]
    control: bool


def overview(scene: Scene) -> Any:
    """How the experiment ended, if it did, and its best config to be copied."""
    view, ended = scene.view, _how_it_ended(scene.view)
    if view.best is None:
        return [*ended, parts.alert(f"No trial has a value of {view.metric} yet.")]
    config = shown(dict(scene.source.results(view.name).trial(view.best).config))
    return [*ended, card(*_copies(config, "best"), title="Best config")]


def overview_of(view: View) -> str:
    """Return what the overview shows: it is drawn anew when that changes."""
    return f"{view.best} {view.status} {view.reason}"


def _how_it_ended(view: View) -> list[Any]:
    """Return why an experiment is not running, as a warning where it did not come to its end."""
    if view.running or not view.reason:
        return []
    if view.status == "finished":
        return [html.P(view.reason)]
    return [parts.alert(f"It is {view.status}: {view.reason}. To go on with it: tune-platform resume {view.name}")]


def _copies(config: Mapping[str, Any], place: str) -> list[Any]:
    args = shlex.join(f"{key.replace('/', '.')}={value}" for key, value in flatten(config).items())
    forms = {
        "Python": f"config = {pformat(config, sort_dicts=False)}",
        "YAML": yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False, allow_unicode=True),
        "Command line": args,
    }
    return [
        dmc.SimpleGrid([copied(k, t, f"{place}-{k[:4].lower()}") for k, t in forms.items()], cols={"base": 1, "sm": 3})
    ]


def failures(scene: Scene) -> Any:
    """The failures by their cause, with the parameters that only they have."""
    view = scene.view
    found = groups(view)
    if not found:
        return card("No trial has failed.", title="Failures")
    cards = []
    for group in found[:20]:
        members = group.trials
        links = [each for n in members[:20] for each in (link(f"trial {n}", view.name, n), " ")]
        shared = "; ".join(f"{name} is {what}" for name, what in group.shared.items()) or ranges(view, members)
        body = [
            html.P([f"{len(members)} trials: ", *links]),
            html.P(f"Their parameters: {shared}"),
            html.Details([html.Summary("Traceback of the first"), html.Pre(_error(view, members[0]), tabIndex=0)]),
        ]
        body.append(retrying(scene, "retry-group", members[0], f"Try these {len(members)} again"))
        cards.append(card(*body, title=group.signature[:200]))
    how = html.P(
        ["To try them again once it has ended: ", html.Code(f"tune-platform resume {view.name} --retry-failed")]
    )
    return [how, retrying(scene, "retry", -1, "Try all failed ones again"), *cards]


def retrying(scene: Scene, action: str, trial: int, word: str) -> Any:
    """Return the button that asks for new trials with the configs of failed ones; none where one may not."""
    if not scene.control or not scene.view.running:
        return ""
    place = {"type": "act", "action": action, "trial": trial}
    return dmc.Button(word, id=place, size="compact-sm", variant="default", mt="xs")


def _error(view: View, trial: int) -> str:
    return str(view.trials.error[view.trials.place(trial)])


def ranges(view: View, members: Sequence[int]) -> str:
    """Return, of each parameter that varies, the range or the values that these trials have."""
    rows, found = [view.trials.place(number) for number in members], []
    for name in view.varied[:12]:
        values = [value for at in rows if (value := view.parameter(name)[at]) is not None]
        if values and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            low, high = number(min(values)), number(max(values))
            found.append(f"{name} {low}" + ("" if low == high else f" to {high}"))
        elif values:
            kinds = sorted(set(map(str, values)))
            found.append(f"{name} {', '.join(kinds[:4])}{' ...' if len(kinds) > 4 else ''}")
    return "; ".join(found) or "none"


def compare(scene: Scene) -> Any:
    """The selected trials side by side: only what differs."""
    view = scene.view
    numbers = [n for n in scene.selection if n in set(view.trials.number.tolist())][:8]
    if len(numbers) < 2:
        return card("Select two to eight trials in the table below.", title="Compare")
    rows = [view.trials.place(n) for n in numbers]
    lines: dict[str, list[Any]] = {
        "state": [parts.state(view.trials.state[at]) for at in rows],
        f"best {view.metric}": [number(float(view.values[at])) for at in rows],
        "step": [int(view.trials.step[at]) for at in rows],
    }
    same = 0
    for name, column in view.trials.parameters.items():
        cells = [column[at] for at in rows]
        if any(cell != cells[0] for cell in cells):
            lines[name] = cells
        else:
            same += 1
    head = ["", *(link(f"trial {n}", view.name, n) for n in numbers)]
    told = "One parameter is" if same == 1 else f"{same} parameters are"
    note = html.P(f"{told} the same in all of them.") if same else ""
    return card(table(head, [[name, *cells] for name, cells in lines.items()]), note, title="Compare")


def repeated(scene: Scene) -> Any:
    """The configs that ran more than once, with other seeds for instance: mean and spread of what they reached."""
    view = scene.view
    found = sorted(same_config(view), key=lambda rows: view.sign * float(np.nanmean(view.values[rows])))
    if not found:
        return card("No config ran more than once; a parameter named seed does not count.", title="Runs of one config")
    names = [name for name in view.varied if not is_seed(name)][:8]
    lines = []
    for rows in found[:100]:
        values = view.values[rows]
        numbers = view.trials.number[rows[:8]].tolist()
        links = [each for trial in numbers for each in (link(str(trial), view.name, trial), " ")]
        cells = [number(view.parameter(name)[rows[0]]) for name in names]
        spread = number(float(np.std(values, ddof=1)))
        lines.append([links, len(rows), number(float(values.mean())), spread, *cells])
    head = ["trials", "runs", f"mean best {view.metric}", "standard deviation", *names]
    return card(table(head, lines), title="Runs of one config")


def audit(scene: Scene) -> Any:
    """All that persons have asked for, newest first."""
    rows = [
        [each["id"], parts.ago(each["time"]), each["action"], "" if each["trial"] is None else each["trial"],
         json.dumps({k: v for k, v in each["data"].items() if k != "by"}, ensure_ascii=False) if each["data"] else "",
         each["data"].get("by", "")]
        for each in asked(scene.source.storage, scene.view.name)[:50]
    ]  # fmt: skip
    body = (
        table(["", "when", "action", "trial", "with", "from"], rows) if rows else "Nobody has asked for anything yet."
    )
    return card(body, title="Audit trail")


def share(scene: Scene) -> Any:
    """Links to the data, and what else can be done with the page."""
    base = f"/files/{quote(scene.view.name, safe='')}"
    links = [
        [html.A(f"Trials as {word}", href=f"{base}/trials.{form}"), " "]
        for form, word in (("csv", "CSV"), ("json", "JSON"), ("parquet", "Parquet"))
    ]
    return card(
        html.P([each for pair in links for each in pair]),
        html.P("The address of this page holds its tab, filter, columns and selection: copy it to share what you see."),
        html.P("Below each figure: save it as SVG or PNG, or its data as CSV."),
        html.P(
            [
                "All of it as one file that opens with no server: ",
                html.Code(f"tune-platform export {scene.view.name} --format html"),
            ]
        ),
        title="Share",
    )


def trial(scene: Scene) -> Any:
    """What is known of one trial."""
    assert scene.trial is not None
    view, results = scene.view, scene.source.results(scene.view.name)
    one = results.trial(scene.trial)
    config = shown(dict(one.config))
    base = f"/files/{quote(view.name, safe='')}/{one.number}"
    at = view.trials.place(one.number)
    parent = int(view.trials.parent[at])
    facts = {
        "state": parts.state(one.status),
        "why": one.reason or "-",
        f"best {view.metric}": "-" if one.best is None else f"{number(one.best)} at step {one.best_step}",
        "steps": one.step,
        "attempts": one.attempt,
        "came from": one.origin if parent < 0 else link(f"trial {parent}", view.name, parent),
        "worker": one.worker or "-",
        "node": view.trials.node[at] or "-",
        **({"GPU": held} if (held := gpus_of(one.worker or "")) else {}),
        "ran for": lasting(float(view.trials.seconds[at])) if one.started else "-",
    }
    kept = [
        [each.step, f"{each.bytes:,}", html.A("download", href=f"{base}/checkpoint/{each.step}")]
        for each in one.checkpoints
    ]
    cards = [
        card(
            pairs(facts),
            buttons(scene, one.number, one.status),
            retrying(scene, "retry", one.number, "Try it again") if one.status == "FAILED" else "",
            title="State",
        ),
        card(pairs(flatten(config)), title="Config"),
        card(pairs(flatten(one.metrics)), title="Metrics at its best report"),
        card(table(["step", "bytes", ""], kept) if kept else "None is kept.", title="Checkpoints"),
    ]
    if view.family is not None and (segments := view.family.schedule(one.number))[1:]:
        cards.append(card(_lineage(view.name, segments), title="What trained its weights, in turn"))
    if one.error:
        cards.insert(0, card(html.Pre(one.error, tabIndex=0), title=one.message[:200]))
    return [
        html.Div(cards, className="figures"),
        card(*_copies(config, "trial"), html.P(["To try it again in a running search: ", html.Code(
            f"tune-platform enqueue {view.name} "
            + shlex.join(f"{k}={v}" for k, v in flatten(config).items()))]), title="Reproduce"),
    ]  # fmt: skip


def _lineage(name: str, segments: Sequence[Segment]) -> Any:
    configs = [flatten(shown(dict(each.config))) for each in segments]
    varied = [key for key in configs[0] if len({str(each.get(key)) for each in configs}) > 1][:8]
    rows = [
        [link(f"trial {each.trial}", name, each.trial), each.first, "its end" if each.last is None else each.last,
         *(number(config.get(key)) for key in varied)]
        for each, config in zip(segments, configs, strict=True)
    ]  # fmt: skip
    return table(["by", "from its step", "to", *varied], rows)


def why(scene: Scene) -> Any:
    """What was decided about a trial, when and why: the lines of `tune-platform why`."""
    assert scene.trial is not None
    lines = scene.source.results(scene.view.name).why(scene.trial)
    rows = [
        [each.time.strftime("%H:%M:%S"), "" if each.step is None else each.step, each.verdict, each.reason, each.cause]
        for each in lines[-200:]
    ]
    return card(table(["time (UTC)", "step", "what", "why", "after"], rows), title="Decisions")


def buttons(scene: Scene, trial: int, status: str = "RUNNING") -> Any:
    """Return the buttons that steer a trial, or with -1 the experiment; none where one may not."""
    if not scene.control or not scene.view.running or status in ("COMPLETED", "STOPPED", "FAILED"):
        return ""
    words = {"stop": "Stop", "pause": "Pause", "unpause": "Go on"} | ({"cancel": "Stop at once"} if trial < 0 else {})
    made = [
        dmc.Button(word, id={"type": "act", "action": action, "trial": trial}, size="compact-sm", variant="default")
        for action, word in words.items()
    ]
    return dmc.Group(made, mt="xs")


#: What the budget can be extended by from the page, by its name in a request.
_MORE = {
    "trials": ("More trials", "such as 10"),
    "time": ("More time", "such as 30m or 2h"),
    "deadline": ("Another deadline", "such as 2030-01-31 18:00"),
    "gpu_hours": ("More GPU hours", "such as 4"),
    "cost": ("More cost", "such as 10"),
}


def control(scene: Scene) -> Any:
    """Buttons for the experiment, and the form that adds a trial."""
    view = scene.view
    if not scene.control:
        text = "This page only reads. To steer from it: tune-platform dashboard --allow-control, and open its address."
        return card(text, title="Control")
    tags = tagging(scene)
    if not view.running:
        command = html.Code(f"tune-platform resume {view.name}")
        return [card(f"{view.name} is not running: {view.status}. To go on with it: ", command, title="Control"), tags]
    fields = [
        dmc.TextInput(id={"type": "field", "name": each.name}, label=each.name, placeholder=_allowed(each))
        for each in view.space.values()
    ]
    form = [
        dmc.SimpleGrid(fields, cols={"base": 1, "sm": 2, "lg": 4}),
        dmc.Button("Add a trial", id={"type": "act", "action": "enqueue", "trial": -1}, mt="sm"),
    ]
    spent = scene.source.results(view.name).spent()
    limits = {"trials", *(spent.of if spent is not None else ()), *(view.spec.get("budget") or {})}
    more = dmc.Group(
        [
            *(
                dmc.TextInput(id={"type": "more", "name": name}, label=word, placeholder=hint)
                for name, (word, hint) in _MORE.items()
                if name in limits
            ),
            dmc.Button("Extend the budget", id={"type": "act", "action": "extend", "trial": -1}, variant="default"),
        ],
        align="end",
    )
    return [
        card(buttons(scene, -1), title="The experiment"),
        card(more, title="Budget"),
        card(html.P("What is left open is sampled."), *form, title="Add a trial"),
        tags,
    ]


def tagging(scene: Scene) -> Any:
    """The tags of the experiment, to be changed; they need no driver."""
    with open_store(scene.source.storage) as store:
        known = store.row(scene.view.name).tags
    field = dmc.TagsInput(
        id={"type": "tags", "name": "tags"}, label="Tags of this experiment", value=list(known), maxTags=TAGS,
        placeholder="type one, then Enter",
    )  # fmt: skip
    button = dmc.Button("Save the tags", id={"type": "act", "action": "tag", "trial": -1}, variant="default", mt="sm")
    return card(field, button, title="Tags")


def _allowed(dimension: Any) -> str:
    if dimension.choices:
        return ", ".join(map(str, dimension.choices[:6]))
    scale = ", log" if dimension.log else ""
    return (
        f"{number(dimension.low)} to {number(dimension.high)}{scale}" if dimension.low is not None else dimension.kind
    )


SECTIONS: Mapping[str, Callable[[Scene], Any]] = {
    each.__name__: each for each in (overview, failures, compare, repeated, audit, share, trial, why, control)
}
#: Sections with fields that somebody may be filling in: they are drawn once.
STILL = ("control", "share")
