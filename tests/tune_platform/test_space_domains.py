from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tune_platform.errors import SpecError
from tune_platform.space import (
    Domain,
    Float,
    Int,
    choice,
    constant,
    grid_search,
    lograndint,
    loguniform,
    normal,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    uniform,
)  # fmt: skip
from tune_platform.space.files import domain_from_dict

N = 4000


def draws(domain: Domain, n: int = N) -> list[Any]:
    rng = np.random.default_rng(7)
    return [domain.sample(rng) for _ in range(n)]


@pytest.mark.parametrize(
    ("domain", "cdf"),
    [
        (uniform(-2, 5), stats.uniform(-2, 7).cdf),
        (loguniform(1e-5, 1e-1), stats.loguniform(1e-5, 1e-1).cdf),
        (normal(3, 2), stats.norm(3, 2).cdf),
    ],
)
def test_continuous_distributions(domain: Domain, cdf: Any) -> None:
    assert stats.kstest(draws(domain), cdf).pvalue > 0.01


def test_log_ints_own_the_interval_up_to_the_next() -> None:
    seen = Counter(draws(lograndint(1, 9)))
    total = math.log(9)
    expected = [N * (math.log(k + 1) - math.log(k)) / total for k in range(1, 9)]
    assert stats.chisquare([seen[k] for k in range(1, 9)], expected).pvalue > 0.01


def test_quantized_floats_give_the_ends_half_a_share() -> None:
    seen = Counter(draws(quniform(0, 1, 0.25)))
    assert stats.chisquare([seen[k / 4] for k in range(5)], [N / 8, N / 4, N / 4, N / 4, N / 8]).pvalue > 0.01


def test_steps_are_exact_decimals() -> None:
    assert quniform(0, 1, 0.1).grid() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("uniform", (0, 2)), ("loguniform", (0.01, 10)), ("quniform", (0, 2, 0.5)), ("qloguniform", (0.5, 8, 0.5)),
        ("randint", (0, 6)), ("lograndint", (1, 20)), ("qrandint", (0, 20, 5)), ("qrandint", (1, 10, 3)),
        ("qrandint", (0, 6, 1)), ("qlograndint", (2, 40, 4)), ("qrandn", (1, 3, 0.5)), ("randn", (1, 3)),
    ],
)  # fmt: skip
def test_same_distribution_as_ray_tune(name: str, args: tuple[float, ...]) -> None:
    tune = pytest.importorskip("ray.tune")
    import tune_platform.space as ours

    own = draws(getattr(ours, name)(*args), 3000)
    theirs = getattr(tune, name)(*args)
    rng = np.random.default_rng(1)
    ray = [theirs.sample(random_state=rng) for _ in range(3000)]
    assert {type(v) for v in own} <= {int, float}
    assert stats.ks_2samp(own, ray).pvalue > 0.005
    if len(set(ray)) < 50 and name != "qrandn":
        assert {round(v, 9) for v in own} == {round(float(v), 9) for v in ray}


@pytest.mark.parametrize(
    "domain",
    [
        uniform(0, 1), loguniform(1e-4, 1), quniform(0, 1, 0.1), qloguniform(0.5, 8, 0.5), randint(0, 5),
        lograndint(1, 50), qrandint(0, 20, 5), qlograndint(2, 40, 4), normal(0, 1), qrandn(0, 1, 0.5),
        choice(["a", 1, None, True]), grid_search([1, 2.5]), Int(3, 3),
    ],
)  # fmt: skip
def test_round_trips(domain: Domain) -> None:
    for value in draws(domain, 50):
        assert domain.contains(value)
        assert domain.cast(value) == value
        assert not isinstance(value, np.generic)
        if domain.size is not None:
            assert domain.at(domain.index(value)) == value
    if domain.size is not None:
        assert len(domain.grid()) == domain.size
        assert all(domain.index(v) == i for i, v in enumerate(domain.grid()))
    assert domain_from_dict(domain.to_dict(), "it") == domain
    assert len(domain.grid(1)) == 1
    assert all(map(domain.contains, domain.grid(3)))


def test_contains_is_strict() -> None:
    assert not randint(0, 3).contains(3)
    assert not randint(0, 3).contains(True)
    assert not uniform(0, 1).contains("0.5")
    assert not uniform(0, 1).contains(float("nan"))
    assert not quniform(0, 1, 0.1).contains(0.15)
    assert choice([1, True]).index(True) == 1
    assert choice([(1, 2)]).contains([1, 2])
    assert Float(0, 1).cast(1) == 1.0
    assert choice(np.array([1, 2])).values == (1, 2)
    assert constant([1, 2]).contains((1, 2))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: uniform(1, 1), "uniform(low=1, high=1): low must be below high"),
        (lambda: uniform(float("nan"), 1), "uniform(low=nan): a finite number"),
        (lambda: loguniform(0, 1), "loguniform(low=0): a logarithmic scale needs low above 0"),
        (lambda: quniform(0, 1, 0.3), "quniform(high=1, q=0.3): high must be a multiple of q"),
        (lambda: quniform(0, 1, 0), "q must be above 0"),
        (lambda: qrandint(1, 2, 5), "no multiple of q"),
        (lambda: randint(0, 2.5), "randint(high=2.5): a whole number"),  # type: ignore[arg-type]
        (lambda: choice([]), "choice([]): at least one value"),
        (lambda: choice("adam"), "choice('adam'): a list of values"),
        (lambda: uniform("1e-4", 1), "write 1.0e-4"),  # type: ignore[arg-type]
        (lambda: normal(0, 0), "must be above 0"),
        (lambda: Int(0, 5, step=2), "the step must divide"),
    ],
)
def test_mistakes_say_what_is_wrong(build: Any, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        build()
    assert words in str(caught.value)
