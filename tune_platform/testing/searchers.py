"""`SearcherContract`: what every searcher must do, as tests. Subclass it in your own test file:

class TestMine(SearcherContract):
    def make_searcher(self):
        return MySearcher()
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from tune_platform.protocol.searcher import Outcome, PastTrial, Searcher, Suggestion
from tune_platform.space import Space, choice, qrandint, quniform, randint, when


class SearcherContract:
    """Tests of a searcher. `make_searcher` is needed; the attributes fit the tests to it."""

    #: how many trials the resume tests run, and where they are cut
    trials: ClassVar[int] = 24
    cuts: ClassVar[tuple[int, ...]] = (1, 7, 16)
    #: how many suggestions are looked at for the rules that each must keep
    suggestions: ClassVar[int] = 24
    #: a searcher without randomness, such as a grid, ignores the seed
    seeded: ClassVar[bool] = True

    def make_searcher(self) -> Searcher:
        """Return a new searcher, before `setup`."""
        raise NotImplementedError

    def make_space(self) -> Space:
        """Return a space that the searcher can serve, with at least `trials` different configs."""
        return Space(
            {"x": quniform(0, 10, 0.01), "n": randint(1, 9), "inner": {"kind": choice(["a", "b"])}, "fixed": 3}
        )

    def make_conditional_space(self) -> Space:
        """Return a space with conditional parameters and branches."""
        return Space(
            {
                "kind": choice(["sgd", "adam"]),
                "momentum": when(quniform(0, 1, 0.01), {"kind": "sgd"}),
                "head": choice([{"name": "mlp", "width": qrandint(8, 64, 8)}, {"name": "linear"}, "none"]),
            }
        )

    def make_constrained_space(self) -> Space:
        """Return a space with a constraint that about half of the configs break."""
        return Space({"low": quniform(0, 1, 0.01), "high": quniform(0, 1, 0.01)}, "low < high")

    # ------------------------------------------------------------------------------------ helpers

    def start(self, space: Space | None = None, seed: int = 0) -> Searcher:
        """Return a searcher that is set up."""
        searcher = self.make_searcher()
        searcher.setup(space or self.make_space(), mode=["min"], seed=seed)
        return searcher

    @staticmethod
    def outcome(number: int, config: Mapping[str, Any]) -> Outcome:
        """Return how a trial of the tests ends: most complete, some are stopped, fail, or report NaN."""
        words = json.dumps(config, sort_keys=True)
        value = float(np.random.default_rng([*words.encode()]).uniform()) + float(config.get("x", 0.0))
        status = ("completed", "completed", "stopped", "completed", "failed")[number % 5]
        if number % 11 == 10:
            value = float("nan")
        return Outcome(status, None if status == "failed" else value, 1 + number % 4)

    def drive(self, searcher: Searcher, start: int, stop: int, running: dict[int, dict[str, Any]]) -> list[PastTrial]:
        """Ask for trials `start` to `stop`, three at a time, told out of order; return those asked and told.

        Every fourth is paused before it goes on to its end.
        """
        log: list[PastTrial] = []
        for number in range(start, stop):
            if number % 4 == 2 and number - 1 in running:
                paused = self.outcome(number - 1, running[number - 1])
                outcome = Outcome("paused", 1.0 if paused.value is None else 1 + paused.value, 1)
                searcher.tell(number - 1, outcome)
                log.append(PastTrial(number - 1, running[number - 1], None, outcome))
            if len(running) >= 3:
                done = sorted(running)[number % len(running)]
                config = running.pop(done)
                outcome = self.outcome(done, config)
                searcher.tell(done, outcome)
                log.append(PastTrial(done, config, None, outcome))
            if number in (0, 5):  # start points
                config = self.make_space().sample(np.random.default_rng(number))
                searcher.observe(number, config)
                log.append(PastTrial(number, config))
            else:
                suggestion = searcher.ask(number)
                assert suggestion is not None
                config = suggestion.config
                log.append(PastTrial(number, config, suggestion.memo or {}))
            running[number] = config
        return log

    # ------------------------------------------------------------------------------------ tests

    @pytest.mark.parametrize("which", ["make_space", "make_conditional_space", "make_constrained_space"])
    def test_configs_lie_in_the_space(self, which: str) -> None:
        """Every config is in the space, of plain values, and so are memos; conditions and constraints hold."""
        space: Space = getattr(self, which)()
        searcher = self.start(space)
        for number in range(self.suggestions):
            suggestion = searcher.ask(number)
            if suggestion is None:
                break
            _check_plain(suggestion.config)
            json.dumps(dict(suggestion.memo or {}), allow_nan=False)
            values = space.flatten(suggestion.config)
            assert space.build(lambda name, domain: values[name]) == suggestion.config  # noqa: B023
            assert space.satisfied(suggestion.config)
            searcher.tell(number, self.outcome(number, suggestion.config))

    def test_same_seed_same_configs(self) -> None:
        """Two searchers with one seed agree; another seed gives other configs."""
        configs = [[s.config for s in _ask(self.start(seed=seed), 8)] for seed in (3, 3, 4)]
        assert configs[0] == configs[1]
        if self.seeded:
            assert configs[0] != configs[2]

    def test_parallel_suggestions_differ(self) -> None:
        """Suggestions of trials that run at the same time are not all alike, at the start and later on."""
        searcher = self.start()
        running: dict[int, dict[str, Any]] = {}
        self.drive(searcher, 0, self.trials, running)
        later = [searcher.ask(self.trials + i) for i in range(4)]
        configs = [json.dumps(s.config, sort_keys=True) for s in later if s is not None]
        assert len(set(configs)) > 1 or len(configs) < 2

    def test_bad_outcomes_are_survived(self) -> None:
        """Trials that all fail, or end without a number, do not end the search."""
        searcher = self.start()
        bad = [Outcome("failed", None, 0), Outcome("completed", float("nan"), 3), Outcome("stopped", None, 0)]
        bad += [Outcome("completed", float("inf"), 1), Outcome("stopped", float("-inf"), 1)]
        for number in range(15):
            assert searcher.ask(number) is not None
            searcher.tell(number, bad[number % len(bad)])

    def test_resume_equals_no_interruption(self) -> None:
        """A search that is cut, with trials running, and restored, suggests what it would have suggested."""
        whole = self.drive(self.start(), 0, self.trials, {})
        expected = {trial.number: trial.config for trial in whole}
        for cut in self.cuts:
            running: dict[int, dict[str, Any]] = {}
            first = self.drive(self.start(), 0, cut, running)
            resumed = self.start()
            resumed.restore(_through_json(_fold(first)))
            second = self.drive(resumed, cut, self.trials, running)
            for trial in second:
                assert trial.config == expected[trial.number], f"cut at {cut}, trial {trial.number}"

    def test_restore_asks_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A long past is taken in as it was: nothing of it is suggested again, which would take hours of a model."""
        space = self.make_space()
        configs = [space.sample(np.random.default_rng(i)) for i in range(500)]
        past = [PastTrial(i, config, None, Outcome("completed", float(i), 1)) for i, config in enumerate(configs)]
        searcher = self.start(space)
        asked: list[int] = []
        with monkeypatch.context() as patched:
            patched.setattr(searcher, "ask", asked.append)
            searcher.restore(past)
        assert not asked

    def test_a_paused_trial_is_told_of_again(self) -> None:
        """What is told of a paused trial is taken back by what is told later, and a restored search knows the same."""

        def tell(searcher: Searcher, number: int, statuses: Sequence[str]) -> list[PastTrial]:
            suggestion = searcher.ask(number)
            if suggestion is None:
                return []
            outcomes = [Outcome(status, 1.0 - step / 10, step) for step, status in enumerate(statuses, start=1)]
            for outcome in outcomes:
                searcher.tell(number, outcome)
            return [PastTrial(number, suggestion.config, suggestion.memo or {}, outcomes[-1])]

        ends = (["paused"], ["paused", "paused"], ["paused", "completed"], ["paused", "failed"], ["paused", "stopped"])
        whole = self.start()
        count = min(12, self.suggestions)
        past = [trial for number in range(count) for trial in tell(whole, number, ends[number % len(ends)])]
        resumed = self.start()
        resumed.restore(_through_json(past))
        assert tell(whole, count, ["completed"]) == tell(resumed, count, ["completed"])
        for trial in past:  # those that are paused go on and end in both
            if trial.outcome is not None and trial.outcome.status == "paused":
                whole.tell(trial.number, Outcome("completed", 0.1, 9))
                resumed.tell(trial.number, Outcome("completed", 0.1, 9))
        assert tell(whole, count + 1, ["completed"]) == tell(resumed, count + 1, ["completed"])

    def test_exhausted_stays_exhausted(self) -> None:
        """None is for ever, and a searcher that never ends on a small space is allowed too."""
        searcher = self.start(Space({"a": choice([1, 2]), "b": choice([3, 4])}))
        asked = [searcher.ask(number) for number in range(8)]
        found = [s for s in asked if s is not None]
        assert asked[: len(found)] == found


def _ask(searcher: Searcher, count: int) -> list[Suggestion]:
    return [s for s in (searcher.ask(number) for number in range(count)) if s is not None]


def _fold(log: list[PastTrial]) -> list[PastTrial]:
    """Merge what was asked and what was told into one record of each trial."""
    past: dict[int, PastTrial] = {}
    for trial in log:
        known = past.get(trial.number)
        past[trial.number] = PastTrial(trial.number, known.config, known.memo, trial.outcome) if known else trial
    return [past[number] for number in sorted(past)]


def _through_json(past: list[PastTrial]) -> list[PastTrial]:
    """Write the past down and read it back, as the store does."""
    return [
        PastTrial(t.number, json.loads(json.dumps(t.config)), t.memo and json.loads(json.dumps(t.memo)), t.outcome)
        if t.memo is None or t.memo
        else PastTrial(t.number, json.loads(json.dumps(t.config)), {}, t.outcome)
        for t in past
    ]


def _check_plain(value: Any) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _check_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item)
    else:
        assert value is None or type(value) in (bool, int, float, str), repr(value)


__all__ = ["SearcherContract"]
