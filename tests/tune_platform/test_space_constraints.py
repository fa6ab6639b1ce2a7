from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.space import Constraint, Space, choice, uniform, when

CONFIG: dict[str, Any] = {"a": 2, "b": 3.5, "s": "adam", "opt": {"lr": 0.1, "k": {"n": 4}}, "t": True, "z": 0}


@pytest.mark.parametrize(
    "text",
    [
        "a < b", "a < b < 10", "a < b < 3", "a * b <= 7 and not a == 3", "s == 'adam' or b > 100", "-a + b ** 2 > 1",
        "(a + b) * 2 // 3 == 3", "a % 2 == 0", "s in ('adam', 'sgd')", "s not in ['x']", "t and a", "a != 2",
        "+a / b < 1", "t == True", "s == None",
    ],
)  # fmt: skip
def test_text_means_what_python_means(text: str) -> None:
    assert Constraint(text).satisfied(CONFIG) == bool(eval(text, {}, dict(CONFIG)))


def test_dotted_names_read_nested_dicts() -> None:
    assert Constraint("opt.lr * opt.k.n < 0.5").satisfied(CONFIG)
    assert not Constraint("opt.k.n > 4").satisfied(CONFIG)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a.b()", "a[0] > 1", "[x for x in s]", "lambda: 1", "a if b else s", "f'{a}'", "(a := 3)",
     "a <", "b'x' == s", "a & b", "1j > 0", "a" * 3000],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Constraint(text)


def test_what_cannot_be_computed() -> None:
    for text in ("s * 1000000 == 'a'", "9 ** 9 ** 9 > 1", "s < a"):
        with pytest.raises(SpecError):
            Constraint(text).satisfied(CONFIG)
    assert not Constraint("a / z > 1").satisfied(CONFIG)


def test_absent_parameters_satisfy() -> None:
    assert Constraint("a > 100 and nowhere < 1").satisfied(CONFIG)
    assert Constraint(lambda config: config["nowhere"] > 1).satisfied(CONFIG)
    space = Space({"o": choice(["x", "y"]), "m": when(uniform(0, 1), {"o": "x"})}, "m < 0.5")
    drawn = [space.sample(np.random.default_rng(i)) for i in range(40)]
    assert all(config.get("m", 0) < 0.5 for config in drawn)
    assert any("m" not in config for config in drawn)


def test_unknown_names_and_impossible_spaces() -> None:
    with pytest.raises(SpecError, match="did you mean 'momentum'"):
        Space({"momentum": uniform(0, 1)}, "momentun < 1")
    space = Space({"a": uniform(0, 1)}, ["a < 2", "a > 5"])
    with pytest.raises(SpecError, match=r"'a > 5' failed in 1000 of 1000"):
        space.check()
    assert Space({"a": uniform(0, 1)}, "a < 0.5").check() == pytest.approx(0.5, abs=0.15)
    assert Space({"a": uniform(0, 1)}).check() == 1.0


def test_what_cannot_be_computed_of_values_is_not_met() -> None:
    rule = Constraint("not (a.b < 2) and -c in (1, 2.5) and -1 < c + 1 < 3")
    assert rule.meets({"a.b": 3, "c": -1})
    assert not rule.meets({"a.b": 3, "c": -2})
    assert not Constraint("a < 2").meets({"a": "text"})
    assert not Constraint("1 / a > 0").meets({"a": 0})
    assert not Constraint("a + 1 > 0").meets({"a": "text"})
