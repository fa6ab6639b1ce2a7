"""PriorBand: the belief comes first, a good one is followed, a bad one is left, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_platform.errors import SpecError
from tune_platform.protocol.searcher import Outcome
from tune_platform.searchers.priorband import PriorBand
from tune_platform.space import Space, choice, loguniform, uniform

SPACE = Space({"lr": loguniform(1e-4, 1.0), "x": uniform(0, 1), "kind": choice(["a", "b", "c"])})


def start(prior: dict[str, Any], space: Space = SPACE, seed: int = 0, **options: Any) -> PriorBand:
    searcher = PriorBand(prior=prior, **options)
    searcher.setup(space, mode=["min"], seed=seed)
    return searcher


def asked(searcher: PriorBand, number: int) -> dict[str, Any]:
    found = searcher.ask(number)
    assert found is not None
    return found.config


def tell(searcher: PriorBand, number: int, loss: float, resource: float = 1.0) -> None:
    searcher.tell(number, Outcome("stopped", loss, 1, (loss,), None, resource, ((resource, loss),)))


def test_the_belief_itself_comes_first_and_what_it_leaves_open_is_drawn() -> None:
    firsts = [asked(start({"lr": 0.01, "kind": "b"}, seed=seed), 0) for seed in range(20)]
    assert all(each["lr"] == pytest.approx(0.01) and each["kind"] == "b" for each in firsts)
    assert len({each["x"] for each in firsts}) == 20


def test_half_is_drawn_near_the_belief_until_there_is_an_incumbent() -> None:
    searcher = start({"lr": 0.01, "kind": "b"}, spread=0.05)
    drawn = [asked(searcher, number) for number in range(1, 401)]
    near = np.array([abs(np.log10(each["lr"]) + 2) < 0.4 for each in drawn])  # two deviations of 0.05 of 4 decades
    assert 0.5 < near.mean() < 0.7, "half of all, and a fifth of the others"
    assert np.mean([each["kind"] == "b" for each in np.array(drawn)[near]]) > 0.7


@pytest.mark.parametrize(("best", "share"), [(0.9, (0.3, 0.5)), (0.2, (0.0, 0.1))])
def test_the_share_of_the_belief_is_what_the_best_trials_speak_for(best: float, share: tuple[float, float]) -> None:
    """The belief is 0.9; where the best trials lie there both explain them as well, else the incumbent wins."""
    searcher = start({"x": 0.9}, Space({"x": uniform(0, 1)}), spread=0.05, random_fraction=0.0)
    for number in range(60):
        searcher.observe(number, {"x": number / 60})
        tell(searcher, number, abs(number / 60 - best))
    turns = [searcher._incumbent(np.random.default_rng(seed)) is None for seed in range(500)]
    assert share[0] <= np.mean(turns) <= share[1] + 0.15 * (best == 0.9)


def test_a_good_belief_helps_and_a_bad_one_is_recovered_from() -> None:
    def regret(prior: float, seed: int, **options: Any) -> float:
        searcher = start({"x": prior, "y": prior}, Space({"x": uniform(0, 1), "y": uniform(0, 1)}), seed, **options)
        found: list[float] = []
        for number in range(40):
            config = asked(searcher, number)
            found.append((config["x"] - 0.8) ** 2 + (config["y"] - 0.7) ** 2)
            tell(searcher, number, found[-1])
        return min(found)

    good, bad, none = (
        np.mean([regret(prior, seed, **options) for seed in range(20)])
        for prior, options in ((0.75, {}), (0.0, {}), (0.0, {"random_fraction": 1.0}))
    )
    assert good < none
    assert bad < 2 * none


def test_the_density_is_one_over_the_whole_space_and_integrates_to_one() -> None:
    searcher = start({"lr": 0.5, "kind": "a"}, spread=0.3)
    places = (np.arange(4000) + 0.5) / 4000
    rows = np.stack([places, np.full(4000, 0.5), np.full(4000, 0.5 / 3)], axis=1)
    kinds = [rows.copy() for _ in range(3)]
    for index, each in enumerate(kinds):
        each[:, 2] = (index + 0.5) / 3
    assert np.mean([searcher._density(searcher._belief, each).mean() for each in kinds]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": {}}, "priorband: prior must give the values that you believe in"),
        ({"prior": {"lr": 0.1}, "spread": 0}, "priorband: spread must be a number from 0.001 to 1, got 0"),
        ({"prior": {"lr": 0.1}, "eta": 1}, "priorband: eta must be a number from 1.001"),
        ({"prior": {"lr": 0.1}, "random_fraction": 2}, "priorband: random_fraction must be a number from 0 to 1"),
        ({"prior": {"lrr": 0.1}}, "no parameter 'lrr' (did you mean 'lr'?); there are lr, x, kind"),
        ({"prior": {"lr": 7}}, "priorband: prior: lr=7 is not in"),
        ({"prior": {"kind": "d"}}, "priorband: prior: kind='d' is not in"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        start(**options)
    assert message in str(caught.value)
