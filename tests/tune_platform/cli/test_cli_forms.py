from __future__ import annotations

import json
import math
import shlex
from typing import Any

import click
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_platform.cli.common import parse_value
from tune_platform.cli.format import table
from tune_platform.cli.forms import as_args, as_json, as_python, as_yaml
from tune_platform.progress.text import counts, duration, finite, number, shorten

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
CONFIGS = st.dictionaries(
    st.text(min_size=1),
    st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner), max_leaves=8),
)


@settings(deadline=None, max_examples=50)
@given(CONFIGS)
def test_python_gives_the_config_back(config: dict[str, Any]) -> None:
    scope: dict[str, Any] = {}
    exec(as_python(config), scope)
    assert scope["config"] == config


@settings(deadline=None, max_examples=50)
@given(CONFIGS)
def test_yaml_and_json_give_the_config_back(config: dict[str, Any]) -> None:
    assert yaml.safe_load(as_yaml(config)) == config
    assert json.loads(as_json(config)) == finite(config)


def test_python_is_laid_out_for_people() -> None:
    config = {"lr": 1e-5, "name": 'a "b"', "nan": math.nan, "layers": [64, 64], "model": {"width": 1, "empty": {}}}
    assert as_python(config, "best") == (
        'best = {\n    "lr": 1e-05,\n    "name": "a \\"b\\"",\n    "nan": float("nan"),\n    "layers": [64, 64],\n'
        '    "model": {"width": 1, "empty": {}},\n}'
    )
    assert as_python({}) == "config = {}"


def test_args_are_quoted_for_the_shell() -> None:
    text = as_args({"a b": "it's", "flag": True, "none": None, "deep": {"list": [1, 2]}})
    assert shlex.split(text) == ["--a b=it's", "--flag=true", "--none=null", "--deep.list=[1, 2]"]


def test_values_are_read_as_yaml_but_for_exponents() -> None:
    texts = ("1e-4", "3", "0.5", "adamw", "true", "[1, 2]", "{bad")
    assert [parse_value(text) for text in texts] == [1e-4, 3, 0.5, "adamw", True, [1, 2], "{bad"]


def test_numbers_and_times() -> None:
    values = (None, True, 3, 0.123456789, 1e-7, math.nan)
    assert [number(value) for value in values] == ["-", "true", "3", "0.12346", "1e-07", "nan"]
    seconds = (None, math.inf, -1, 0.42, 12.3, 59.7, 92, 7500, 273600)
    assert [duration(each) for each in seconds] == [
        "-", "-", "0.0 s", "0.4 s", "12 s", "1m 00s", "1m 32s", "2h 05m", "3d 04h",
    ]  # fmt: skip
    assert counts({"STOPPED": 2, "RUNNING": 1}) == "1 running, 2 stopped"
    assert counts({}) == "no trials yet"
    assert shorten("a long line\nand another", 9) == "a long..."


def test_a_table_keeps_to_its_width() -> None:
    rows = [["1", "x", "a reason that is much too long for this"], ["20", "long name", ""]]
    text = click.unstyle(table(("n", "name", "reason"), rows, limit=40))
    assert text == " n  name       reason\n 1  x          a reason that is much ...\n20  long name"
    assert max(map(len, text.splitlines())) <= 40
