"""Configs as rows: there and back, and a uniform row is a draw from the space."""

from __future__ import annotations

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.space import (
    Domain,
    Float,
    Int,
    Normal,
    Space,
    SpaceTrial,
    choice,
    loguniform,
    qloguniform,
    quniform,
    randint,
    uniform,
    when,
)
from tune_platform.space.encoding import Encoding, from_unit, to_unit

DOMAINS = [
    Float(0.0, 2.0), Float(1e-5, 1.0, log=True), Float(0.0, 1.0, step=0.25), Float(0.5, 8.0, log=True, step=0.5),
    Int(1, 9), Int(1, 100, log=True), Int(0, 10, step=5), Int(3, 3), Normal(2.0, 3.0), choice(["a", "b", "c"]),
    choice([True, False]), choice([64, 16, 32]),
]  # fmt: skip


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_there_and_back(domain: Domain) -> None:
    encoding = Encoding(Space({"p": domain}))
    generator = np.random.default_rng(0)
    for _ in range(50):
        value = domain.sample(generator)
        row = encoding.row({"p": value})
        assert 0 <= row[0] <= 1
        back = encoding.config(row)[0]["p"]
        assert back == pytest.approx(value, rel=1e-9) if isinstance(value, float) else back == value


@pytest.mark.parametrize("domain", [Int(1, 9), Int(1, 20, log=True), Float(0.0, 1.0, step=0.25)], ids=str)
def test_a_uniform_place_is_a_draw(domain: Domain) -> None:
    generator = np.random.default_rng(0)
    draws = [domain.index(domain.sample(generator)) for _ in range(4000)]
    places = [domain.index(from_unit(domain, place)) for place in np.linspace(0, 1, 4000)]
    counts = [np.bincount(found, minlength=domain.size or 0) / 4000 for found in (draws, places)]
    assert np.abs(counts[0] - counts[1]).max() < 0.03


def test_numbers_of_a_choice_are_ordered_and_categories_are_not() -> None:
    encoding = Encoding(Space({"batch": choice([64, 16, 32]), "kind": choice(["a", "b", "c"])}))
    assert [to_unit(encoding.domains[0], value, encoding.orders[0]) for value in (16, 32, 64)] == pytest.approx(
        [1 / 6, 3 / 6, 5 / 6]
    )
    features = encoding.features(np.array([encoding.row({"batch": 16, "kind": kind}) for kind in "abc"]))
    distances = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    assert distances == pytest.approx(1 - np.eye(3))


def test_what_a_config_does_not_have_is_nan() -> None:
    space = Space({"kind": choice(["sgd", "adam"]), "momentum": when(uniform(0, 1), {"kind": "sgd"})})
    encoding = Encoding(space)
    assert np.isnan(encoding.row({"kind": "adam"})[1])
    settled = encoding.settle(np.array([[0.2, 0.4], [0.9, 0.4]]))
    assert settled[0] == pytest.approx([0.25, 0.4])
    assert settled[1, 0] == 0.75
    assert np.isnan(settled[1, 1])
    assert encoding.features(settled)[:, -1].tolist() == [1.0, 0.0]


def test_fixed_parameters_and_steps() -> None:
    encoding = Encoding(Space({"a": quniform(0, 1, 0.5), "b": randint(0, 2), "c": loguniform(1, 100)}))
    settled = encoding.settle(np.array([[0.3, 0.9, 0.5]]), {"c": 10.0})
    assert settled[0] == pytest.approx([0.5, 0.75, 0.5])
    assert encoding.config(settled[0], {"c": 10.0})[0] == {"a": 0.5, "b": 1, "c": 10.0}
    assert Encoding(Space({"q": qloguniform(1, 8, 1)})).config(np.array([1.0]))[0] == {"q": 8.0}


def test_a_function_has_no_rows() -> None:
    def space(trial: SpaceTrial) -> dict[str, float]:
        return {"x": trial.suggest_float("x", 0, 1)}

    with pytest.raises(SpecError, match="written as a function"):
        Encoding(Space(space))
