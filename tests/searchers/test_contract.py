from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from tune_platform.protocol.searcher import PastTrial, Searcher
from tune_platform.registry import make_searcher
from tune_platform.searchers import GridSearcher, OptunaSearcher, RandomSearcher
from tune_platform.space import Space, quniform, uniform
from tune_platform.testing.searchers import SearcherContract


class ModelContract(SearcherContract):
    """The contract for searchers with a model, which must have been at work, or the tests would show nothing."""

    mark: ClassVar[str]  # an attribute that the sampler writes only when its model suggests

    def test_the_model_is_at_work_before_the_last_cut(self) -> None:
        log = self.drive(self.start(), 0, max(self.cuts), {})
        memos = [heard.memo for heard in log if isinstance(heard, PastTrial) and heard.memo]
        assert any(self.mark in key for memo in memos for key in memo.get("attrs", {}))


class TestRandom(SearcherContract):
    def make_searcher(self) -> Searcher:
        return RandomSearcher()


class TestGrid(SearcherContract):
    seeded = False

    def make_searcher(self) -> Searcher:
        return GridSearcher()


class TestTpe(ModelContract):
    mark = "tpe:relative_params"
    trials = 40
    cuts: ClassVar[tuple[int, ...]] = (1, 7, 26, 33)

    def make_searcher(self) -> Searcher:
        return OptunaSearcher("tpe", n_startup_trials=6)


class TestTpeOnAConditionalSpace(TestTpe):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestBohb(SearcherContract):
    trials = 40
    cuts: ClassVar[tuple[int, ...]] = (1, 7, 26, 33)

    def make_searcher(self) -> Searcher:
        return make_searcher("bohb", random_fraction=0.1)

    def test_the_model_is_at_work_before_the_last_cut(self) -> None:
        log = self.drive(self.start(), 0, max(self.cuts), {})
        assert any(heard.memo == {"model": True} for heard in log if isinstance(heard, PastTrial))


class TestBohbOnAConditionalSpace(TestBohb):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestScreen(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("screen")


class TestScreenOnAConditionalSpace(TestScreen):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestNsgaII(SearcherContract):
    trials = 50
    cuts: ClassVar[tuple[int, ...]] = (2, 13, 31)

    def make_searcher(self) -> Searcher:
        return OptunaSearcher("nsgaii", population_size=6)


class TestNsgaIII(TestNsgaII):
    def make_searcher(self) -> Searcher:
        return OptunaSearcher("nsgaiii", population_size=6)


class TestCmaEs(ModelContract):
    mark = "cma:optimizer"
    trials = 50
    cuts: ClassVar[tuple[int, ...]] = (2, 13, 31, 44)

    def make_searcher(self) -> Searcher:
        return OptunaSearcher("cmaes", popsize=5)


class TestCmaEsWithMargin(TestCmaEs):
    mark = "cmawm:optimizer"

    def make_searcher(self) -> Searcher:
        return OptunaSearcher("cmaes", popsize=5, with_margin=True)


class TestQmc(SearcherContract):
    trials = 12
    cuts: ClassVar[tuple[int, ...]] = (1, 8)

    def make_searcher(self) -> Searcher:
        return OptunaSearcher("qmc", qmc_type="halton")


class TestOptunaRandom(SearcherContract):
    def make_searcher(self) -> Searcher:
        return OptunaSearcher("random")


@pytest.mark.slow
class TestGp(ModelContract):
    mark = "gp:relative_params"
    trials = 9
    suggestions = 5
    cuts: ClassVar[tuple[int, ...]] = (7,)

    def make_searcher(self) -> Searcher:
        return OptunaSearcher("gp", n_startup_trials=2)

    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), "y": uniform(0, 1)})

    def make_constrained_space(self) -> Space:
        return Space({"low": quniform(0, 1, 0.01), "high": uniform(0, 1)}, "low < high")


class TestEvolution(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("evolution", population=12, sample=4)


class TestPriorBand(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("priorband", prior={"x": 0.3}, random_fraction=0.1)

    def start(self, space: Space | None = None, seed: int = 0) -> Searcher:
        space = space or self.make_space()
        name, value = next(iter(space.flatten(space.sample(np.random.default_rng(0))).items()))
        searcher = make_searcher("priorband", prior={name: value}, random_fraction=0.1)
        searcher.setup(space, mode=["min"], seed=seed)
        return searcher


class TestPriorBandOnAConditionalSpace(TestPriorBand):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestBo(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("bo", candidates=40)


class TestBoOnAConditionalSpace(TestBo):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestMfes(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("mfes", candidates=40)


class TestMfesOnAConditionalSpace(TestMfes):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestDehb(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("dehb", population=6)


class TestDehbOnAConditionalSpace(TestDehb):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestTurbo(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("turbo", candidates=40, failures=1)

    def test_the_model_is_at_work_before_the_last_cut(self) -> None:
        log = self.drive(self.start(), 0, max(self.cuts), {})
        assert any("model" in (heard.memo or {}) for heard in log if isinstance(heard, PastTrial))


class TestTurboOnAConditionalSpace(TestTurbo):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestCqr(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("cqr", random_fraction=0.1, candidates=40)


class TestCqrOnAConditionalSpace(TestCqr):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestForest(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("forest", random_fraction=0.1, candidates=40, trees=4)


class TestForestOnAConditionalSpace(TestForest):
    def make_space(self) -> Space:
        return Space({"x": uniform(0, 1), **self.make_conditional_space().param_space})  # type: ignore[dict-item]


class TestPortfolio(TestBohb):
    def make_searcher(self) -> Searcher:
        return make_searcher("portfolio")

    def test_the_model_is_at_work_before_the_last_cut(self) -> None:
        log = self.drive(self.start(), 0, max(self.cuts), {})
        by = {(heard.memo or {}).get("by") for heard in log if isinstance(heard, PastTrial)}
        assert by >= {"bohb", "evolution", "random"}
