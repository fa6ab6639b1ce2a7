"""What a person can choose of each figure: axes, smoothing, how many. Values travel as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dash_mantine_components as dmc
from dash import html

from tune_platform.plots.view import View

#: A value as text, and the word for it.
Choice = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of a figure. `read` makes of the text what the figure's function takes; "" is its default."""

    name: str
    word: str
    choices: Callable[[View], Sequence[Choice]]
    read: Callable[[str], Any] = str
    slider: bool = False


def _fixed(*choices: Choice) -> Callable[[View], Sequence[Choice]]:
    return lambda _: choices


def _metrics(view: View) -> list[Choice]:
    others = [name for name in view.metric_names if name != view.metric]
    return [("", view.metric or "metric"), *((name, name) for name in others)]


def _resources(view: View) -> list[Choice]:
    return [("", "step"), ("time", "time in seconds"), *((name, name) for name in sorted(view.reports.metrics))]


def _parameters(default: str) -> Callable[[View], Sequence[Choice]]:
    return lambda view: [("", default), *((name, name) for name in view.varied)]


def _axes(view: View) -> list[Choice]:
    return [("", "none"), *((name, name) for name in view.varied), (view.metric, f"{view.metric} (value)")]


def _budgets(view: View) -> list[Choice]:
    longest = int(view.trials.step.max()) if len(view.trials) else 0
    steps = sorted({max(1, longest // 4), max(1, longest // 2), longest}) if longest > 1 else []
    every = ",".join(map(str, steps))
    return [("", "the best value"), *([(every, f"at the reports {every.replace(',', ', ')}")] if steps else [])]


def _whole(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


_SCALE = Option("log", "Scale", _fixed(("", "fitting"), ("yes", "log"), ("no", "linear")), lambda text: text == "yes")

OPTIONS: Mapping[str, tuple[Option, ...]] = {
    "history": (Option("x", "Over", _fixed(("", "trials"), ("time", "hours"))), _SCALE),
    "curves": (
        Option("metric", "Metric", _metrics),
        Option("x", "Over", _resources),
        Option("top", "Curves", _fixed(("", "20 best"), ("5", "5 best"), ("50", "50 best"), ("200", "200 best")), int),
        Option("bands", "All trials", _fixed(("", "not shown"), ("yes", "as bands")), bool),
        Option(
            "smoothing", "Smoothing",
            _fixed(("", "none"), ("0.5", "0.5"), ("0.8", "0.8"), ("0.9", "0.9"), ("0.97", "0.97")), float,
        ),
        _SCALE,
    ),
    "parallel": (
        Option("top", "Best trials shown, in %", _fixed(("", "100")), lambda text: float(text) / 100, slider=True),
        Option("invert", "Turn an axis round", _axes),
        Option("log", "Scale of the value", _fixed(("", "fitting"), ("yes", "log"), ("no", "linear")),
               lambda text: text == "yes"),
    ),
    "importance": (
        Option("evaluator", "By", _fixed(("", "PED-ANOVA"), ("fanova", "fANOVA"))),
        Option("budgets", "Of", _budgets, _whole),
    ),
    "contour": (Option("x", "Across", _parameters("what tells most")), Option("y", "Up", _parameters("the next"))),
    "rank": (Option("x", "Across", _parameters("what tells most")), Option("y", "Up", _parameters("the next"))),
    "timeline": (Option("by", "Rows", _fixed(("", "nodes"), ("gpu", "GPUs"))),),
    "utilisation": (Option("by", "Of", _fixed(("", "nodes"), ("gpu", "GPUs"))),),
    "schedules": (Option("parameter", "Parameter", _parameters("the first")),),
}  # fmt: skip


def of_metrics(view: View) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Return the choices that grow with the metrics that are known, by figure and name of the option."""
    return {
        (figure, each.name): _data(each.choices(view))
        for figure, options in OPTIONS.items()
        for each in options
        if each.choices in (_metrics, _resources)
    }


def _data(choices: Iterable[Choice]) -> list[dict[str, str]]:
    return [{"value": value, "label": word} for value, word in choices]


def read(figure: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the function of a figure takes, of what was chosen; what is no choice of it is left out."""
    found = {}
    for option in OPTIONS.get(figure, ()):
        text = str(given.get(option.name) or "")
        if text and not (option.slider and text == "100"):
            try:
                found[option.name] = option.read(text)
            except ValueError:
                continue
    return found


def in_address(query: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the choices that an address tells, by figure: `curves.x=time`."""
    found: dict[str, dict[str, str]] = {}
    for key, value in query.items():
        figure, _, name = key.partition(".")
        if figure in OPTIONS and any(name == each.name for each in OPTIONS[figure]):
            found.setdefault(figure, {})[name] = value
    return found


def controls(figure: str, view: View, given: Mapping[str, str]) -> Any:
    """Return the fields of a figure's choices, with what was given; nothing where there are none."""
    fields = [_field(figure, each, each.choices(view), given.get(each.name, "")) for each in OPTIONS.get(figure, ())]
    return html.Div(fields, className="options") if fields else ""


def _field(figure: str, option: Option, choices: Iterable[Choice], given: str) -> Any:
    place = {"type": "option", "name": figure, "of": option.name}
    if option.slider:
        marks = [{"value": each} for each in (10, 25, 50, 75, 100)]
        start = int(given) if given.isdigit() and 1 <= int(given) <= 100 else 100
        slider = dmc.Slider(
            id=place, min=1, max=100, value=start, marks=marks, size="sm", w="10rem", updatemode="mouseup",
            thumbLabel=option.word,
        )  # fmt: skip
        return html.Div([html.Div(option.word, className="option-word"), slider])
    known = list(choices)
    start_at = given if given in {value for value, _ in known} else ""
    return dmc.Select(
        id=place, label=option.word, data=_data(known), value=start_at, size="xs", w="8.5rem", allowDeselect=False
    )
