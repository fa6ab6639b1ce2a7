from __future__ import annotations

import argparse
import enum
import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.configs import Unavailable, from_json, is_plain, shown, to_json


class Colour(enum.Enum):
    RED = 1


class Word(enum.StrEnum):
    A = "a"


class Outer:
    class Inner:
        pass


@dataclass
class Options:
    width: int = 3


def at_top() -> None:
    pass


ROUND = [
    {"a": 1, "b": [1.5, None, True, "x"], "c": {"d": {}}},
    {"a": (1, 2), "b": [(1, ("x",))], "c": ()},
    {1: "a", 2.5: "b", False: "c", None: "d", (1, 2): "e"},
    {"$tuple": [1, 2], "x": {"$object": "no"}, "$": 1},
    {"cls": OrderedDict, "inner": Outer.Inner, "f": at_top, "builtin": len, "colour": Colour.RED, "word": Word.A},
    {"n": float("inf"), "big": 10**30},
]


@pytest.mark.parametrize("config", ROUND, ids=range(len(ROUND)))
def test_what_is_kept_comes_back(config: dict[str, Any]) -> None:
    text = json.dumps(to_json(config))
    back = from_json(json.loads(text))
    assert back == config
    assert repr(back) == repr(config), "types too"


def test_plain_configs_are_not_copied() -> None:
    assert is_plain(ROUND[0])
    assert to_json(ROUND[0]) is ROUND[0]
    assert from_json(ROUND[0]) is ROUND[0]


def test_objects_are_stored_by_name() -> None:
    assert to_json({"a": Outer.Inner}) == {"a": {"$object": f"{__name__}:Outer.Inner"}}
    assert shown({"a": (Outer.Inner, 1)}) == {"a": (f"{__name__}:Outer.Inner", 1)}


def test_scalars_and_other_mappings() -> None:
    assert to_json({"a": np.float64(0.5), "b": np.int32(3), "c": np.str_("x"), "d": OrderedDict(x=1)}) == {
        "a": 0.5, "b": 3, "c": "x", "d": {"x": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (argparse.Namespace(lr=1), ["argparse.Namespace", "vars(...)"]),
        (np.zeros(3), ["numpy.ndarray", ".tolist()"]),
        (Options(), ["Options", "asdict"]),
        (Path("x"), ["PosixPath", "text"]),
        ({1, 2}, ["set", "a list"]),
        (lambda: 1, ["function", "top of a module"]),
        (object(), ["builtins.object", "functools.partial"]),
    ],
)
def test_the_rest_is_refused_with_its_place_and_type(value: Any, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        to_json({"model": {"layers": [1, {"it": value}]}})
    assert str(caught.value).startswith("model/layers/1/it: got ")
    for word in words:
        assert word in str(caught.value)


def test_what_holds_itself_is_refused() -> None:
    config: dict[str, Any] = {}
    config["me"] = config
    with pytest.raises(SpecError, match="nested too deeply"):
        to_json(config)


def test_an_object_that_is_gone() -> None:
    data = {"act": {"$object": "no_such_module:Thing"}, "n": 1}
    with pytest.raises(SpecError, match=r"'no_such_module:Thing', which cannot be imported here: ModuleNotFoundError"):
        from_json(data)
    found = from_json(data, Unavailable)
    assert isinstance(found["act"], Unavailable)
    assert str(found["act"]) == "no_such_module:Thing"
    assert shown(found) == {"act": "no_such_module:Thing", "n": 1}
    assert to_json(found) == data
    assert not math.isnan(found["n"])
