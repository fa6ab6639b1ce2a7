"""`SearcherContract`: what every searcher must do, as tests. Subclass it in your own test file:

class TestMine(SearcherContract):
    def make_searcher(self):
        return MySearcher()
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from tune_platform.protocol.searcher import Outcome, PastTrial, Searcher, Suggestion
from tune_platform.space import Space, choice, qrandint, quniform, randint, when

#: what a searcher heard of: a trial that was suggested or observed, or an outcome
Heard = PastTrial | tuple[int, Outcome]


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
        """Return how a trial of the tests ends: most complete, some are stopped, fail, or report NaN.

        They are judged each half a unit of the resource. `config` is the one that gave the value.
        """
        words = json.dumps(config, sort_keys=True)
        value = float(np.random.default_rng([*words.encode()]).uniform()) + float(config.get("x", 0.0))
        status = ("completed", "completed", "stopped", "completed", "failed")[number % 5]
        if number % 11 == 10:
            value = float("nan")
        step = 1 + number % 4
        rungs = tuple((k / 2, value + (step - k) / 10) for k in range(1, step + 1))
        best = None if status == "failed" else value
        return Outcome(status, best, step, (value,), config, step / 2, rungs)

    @staticmethod
    def paused(outcome: Outcome) -> Outcome:
        """Return how a trial stands at its first rung, if it ends like this."""
        (resource, value), *_ = rungs = outcome.rungs[:1]
        return replace(outcome, status="paused", value=value, step=1, values=(value,), resource=resource, rungs=rungs)

    def drive(self, searcher: Searcher, start: int, stop: int, running: dict[int, dict[str, Any]]) -> list[Heard]:
        """Ask for trials `start` to `stop`, three at a time, told out of order; return what was asked and told.

        Every fourth is paused before it goes on to its end, and of some it is told that they run where the searcher
        `follows`; every seventh is cloned, so that another config than the suggested one gives its value.
        """
        log: list[Heard] = []
        space = self.make_space()

        def tell(number: int, outcome: Outcome) -> None:
            searcher.tell(number, outcome)
            log.append((number, outcome))

        for number in range(start, stop):
            if number % 4 == 2 and number - 1 in running:
                tell(number - 1, self.paused(self.outcome(number - 1, running[number - 1])))
            if number % 5 == 3 and number - 2 in running and getattr(searcher, "follows", False):
                stands = self.paused(self.outcome(number - 2, running[number - 2]))
                tell(number - 2, replace(stands, status="running"))
            if len(running) >= 3:
                done = sorted(running)[number % len(running)]
                config = running.pop(done)
                if done % 7 == 3:
                    config = space.sample(np.random.default_rng([done, 7]))
                tell(done, self.outcome(done, config))
            if number in (0, 5):  # start points
                config = space.sample(np.random.default_rng(number))
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

    def test_it_is_of_the_present_protocol(self) -> None:
        """It has all that a searcher must have, and says how far ahead it may be asked."""
        from tune_platform.registry import make_searcher

        searcher = self.make_searcher()
        assert make_searcher(searcher) is searcher
        assert isinstance(searcher, Searcher)
        assert hasattr(searcher, "state") == hasattr(searcher, "load_state")

    def test_one_that_is_asked_far_ahead_does_not_depend_on_values(self) -> None:
        """Where `lookahead` is None, suggestions are the same whatever comes of the trials."""
        searchers = [self.start(), self.start()]
        if searchers[0].lookahead is not None:
            return
        for number in range(self.suggestions):
            suggestions = [searcher.ask(number) for searcher in searchers]
            assert suggestions[0] == suggestions[1]
            if suggestions[0] is None:
                break
            outcome = self.outcome(number, suggestions[0].config)
            searchers[0].tell(number, outcome)
            searchers[1].tell(number, _other_values(outcome))

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
        bad += [Outcome("stopped", None, 3, worst=True)]
        for number in range(15):
            assert searcher.ask(number) is not None
            searcher.tell(number, bad[number % len(bad)])

    def test_resume_equals_no_interruption(self) -> None:
        """A search that is cut, with trials running, and restored, suggests what it would have suggested."""
        expected = _configs(self.drive(self.start(), 0, self.trials, {}))
        for cut in self.cuts:
            running: dict[int, dict[str, Any]] = {}
            past, _ = _fold(self.drive(self.start(), 0, cut, running))
            resumed = self.start()
            resumed.restore(_through_json(past))
            for number, config in _configs(self.drive(resumed, cut, self.trials, running)).items():
                assert config == expected[number], f"cut at {cut}, trial {number}"

    def test_choices_with_more_values_at_their_end(self) -> None:
        """One that is resumed with longer lists tries the new values too, and so does one that is cut after that."""
        if not getattr(self.make_searcher(), "longer_choices", False):
            pytest.skip("it does not go on with longer lists of choices")
        x, values = quniform(0, 10, 0.01), [1, 2, (3, 3), "four", 5, 6, 7]
        short, longer = Space({"x": x, "kind": choice(values[:2])}), Space({"x": x, "kind": choice(values)})

        def drive(searcher: Searcher, numbers: Iterable[int]) -> list[PastTrial]:
            found = []
            for number in numbers:
                suggestion = searcher.ask(number)
                assert suggestion is not None
                outcome = self.outcome(number, suggestion.config)
                searcher.tell(number, outcome)
                found.append(PastTrial(number, suggestion.config, suggestion.memo or {}, outcome))
            return found

        cut, again = self.trials // 3, self.trials // 3 * 2
        past = drive(self.start(short), range(cut))
        grown = self.start(longer)
        grown.restore(_through_json(past))
        past += drive(grown, range(cut, again))
        expected = drive(grown, range(again, self.trials))
        assert all(longer.flatten(trial.config) for trial in past + expected)  # raises for one outside of it
        assert any(trial.config["kind"] in values[2:] for trial in past[cut:] + expected)
        resumed = self.start(longer)
        resumed.restore(_through_json(past))
        assert _configs(drive(resumed, range(again, self.trials))) == _configs(expected)

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
            rungs = tuple((step / 2, 1.0 - step / 10) for step in range(1, len(statuses) + 1))
            outcomes = [
                Outcome(status, value, step, (value,), suggestion.config, resource, rungs[:step])
                for step, (status, (resource, value)) in enumerate(zip(statuses, rungs, strict=True), start=1)
            ]
            for outcome in outcomes:
                searcher.tell(number, outcome)
            return [PastTrial(number, suggestion.config, suggestion.memo or {}, outcomes[-1])]

        ends: tuple[list[str], ...]
        ends = (["paused"], ["paused", "paused"], ["paused", "completed"], ["paused", "failed"], ["paused", "stopped"])
        whole = self.start()
        if getattr(whole, "follows", False):
            ends = (["running"], ["running", "stopped"], ["running", "paused"], *ends)
        count = min(12, self.suggestions)
        past = [trial for number in range(count) for trial in tell(whole, number, ends[number % len(ends)])]
        resumed = self.start()
        resumed.restore(_through_json(past))
        assert tell(whole, count, ["completed"]) == tell(resumed, count, ["completed"])
        for trial in past:  # those that are paused, or run, go on and end in both
            if trial.outcome is not None and trial.outcome.status in ("paused", "running"):
                end = Outcome("completed", 0.1, 9, (0.1,), trial.config, 4.5, (*trial.outcome.rungs, (4.5, 0.1)))
                whole.tell(trial.number, end)
                resumed.tell(trial.number, end)
        assert tell(whole, count + 1, ["completed"]) == tell(resumed, count + 1, ["completed"])

    def test_what_was_reached_at_each_rung_is_known_again(self) -> None:
        """Where nothing completes, a searcher may go by how far trials came; a restored one knows that as well."""
        whole, resumed = self.start(), self.start()
        past: list[PastTrial] = []
        count = min(self.trials, self.suggestions)
        for number in range(count):
            suggestion = whole.ask(number)
            assert suggestion is not None
            depth, value = 1 + number * 5 % 3, number * 7 % count / count
            rungs = tuple((k / 2, value + k % 2 / 10) for k in range(1, depth + 1))
            best, status = min(value for _, value in rungs), ("stopped", "paused")[number % 2]
            outcome = Outcome(status, best, 9 - depth, (rungs[-1][1],), suggestion.config, depth / 2, rungs)
            whole.tell(number, outcome)
            past.append(PastTrial(number, suggestion.config, suggestion.memo or {}, outcome))
        resumed.restore(_through_json(past))
        for number in range(count, count + 3):
            assert whole.ask(number) == resumed.ask(number)

    def test_a_batch_is_what_it_would_be_asked_one_by_one(self) -> None:
        """`ask_batch` gives what `ask` of each number gives, so that nothing depends on which asks wait together."""
        alone: Any = self.start()
        batched: Any = self.start()
        if not hasattr(batched, "ask_batch"):
            pytest.skip("it has no ask_batch")
        count = self.trials // 2
        for searcher in (alone, batched):
            self.drive(searcher, 0, count, {})
        for numbers in (range(count, count + 3), range(count + 3, count + 4), range(count + 4, count + 6)):
            expected = [alone.ask(number) for number in numbers]
            assert list(batched.ask_batch(list(numbers))) == expected
            if expected[0] is not None:
                outcome = self.outcome(0, expected[0].config)
                for searcher in (alone, batched):
                    searcher.tell(numbers[0], outcome)

    def test_state_stands_for_the_past(self) -> None:
        """One that loads the state of a moment, and hears of what came after, goes on as one that was not cut."""
        if not hasattr(self.make_searcher(), "state"):
            pytest.skip("it has no state")
        expected = _configs(self.drive(self.start(), 0, self.trials, {}))
        for moment, cut in zip((0, *self.cuts), self.cuts, strict=False):
            running: dict[int, dict[str, Any]] = {}
            first: Any = self.start()
            self.drive(first, 0, moment, running)
            state = json.loads(json.dumps(first.state(), allow_nan=False))
            past, later = _fold(self.drive(first, moment, cut, running))
            resumed: Any = self.start()
            resumed.load_state(state)
            resumed.restore(_through_json(past))
            for number, outcome in later.items():
                resumed.tell(number, outcome)
            for number, config in _configs(self.drive(resumed, cut, self.trials, running)).items():
                assert config == expected[number], f"cut at {cut}, trial {number}"

    def test_exhausted_stays_exhausted(self) -> None:
        """None is for ever, and a searcher that never ends on a small space is allowed too."""
        searcher = self.start(Space({"a": choice([1, 2]), "b": choice([3, 4])}))
        asked = [searcher.ask(number) for number in range(8)]
        found = [s for s in asked if s is not None]
        assert asked[: len(found)] == found


def _ask(searcher: Searcher, count: int) -> list[Suggestion]:
    return [s for s in (searcher.ask(number) for number in range(count)) if s is not None]


def _other_values(outcome: Outcome) -> Outcome:
    rungs = tuple((resource, -value) for resource, value in outcome.rungs)
    values = tuple(-value for value in outcome.values)
    return replace(outcome, value=None if outcome.value is None else -outcome.value, values=values, rungs=rungs)


def _configs(log: Iterable[Heard]) -> dict[int, Mapping[str, Any]]:
    return {heard.number: heard.config for heard in log if isinstance(heard, PastTrial)}


def _fold(log: Iterable[Heard]) -> tuple[list[PastTrial], dict[int, Outcome]]:
    """Merge what was asked and told into one record of each trial, and the last outcomes of trials from before."""
    past: dict[int, PastTrial] = {}
    later: dict[int, Outcome] = {}
    for heard in log:
        if isinstance(heard, PastTrial):
            past[heard.number] = heard
        elif heard[0] in past:
            past[heard[0]] = replace(past[heard[0]], outcome=heard[1])
        else:
            later[heard[0]] = heard[1]
    return [past[number] for number in sorted(past)], later


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
