"""Population based training (Jaderberg et al., 2017, Algorithm 1): exploit and explore.

All trials train side by side, each evaluated every `interval` of the resource. One that is ready is judged against the
population:
    exploit  truncation: where it ranks in the lowest `quantile`, it takes the weights and the config of one drawn from
             the highest. Binary tournament: it is held against one drawn from all others, and takes those of a better.
    explore  each hyperparameter taken over is perturbed (times 1.2 or 0.8), or drawn anew with chance `resample`.

Asynchronous (the paper's): a trial is judged when it is ready, by the last evaluation of each of the others.
Synchronous: all pause, and are judged at once when the whole population has arrived; nothing then depends on who is
quicker.

Where there are fewer places than members, one that is ready and ahead of a member without a place gives its own up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tune_platform.errors import SpecError
from tune_platform.protocol.configs import from_json, to_json
from tune_platform.protocol.reports import Config, Report
from tune_platform.protocol.scheduler import Candidates, TrialView
from tune_platform.protocol.seeds import rng
from tune_platform.protocol.verdicts import Clone, Continue, Decision, Decisions, Pause, Stop
from tune_platform.schedulers._explore import Explorer
from tune_platform.schedulers._rungs import check_numbers, check_resource, reached
from tune_platform.space import Space

Selection = Literal["truncation", "binary_tournament"]
#: What is known of each member, and the sets of members whose order counts.
_BY_MEMBER, _IN_ORDER = ("scores", "evaluated", "reached"), ("idle", "arrived")


class PBT:
    """Population based training over any reported resource; the population is the trials that live.

    interval: of resource between two evaluations of a member. mutations: see `tune_platform.schedulers._explore`;
    None: the search space itself. quantile: the share that is replaced, and that is copied, at most 0.5. resample and
    factors: of explore. explore: a function of the whole config that is called after the mutations and whose answer is
    the new one. selection: truncation or binary_tournament. burn_in: the resource before which nobody is replaced.
    synchronous: see above. max: the resource at which a trial is done (None: its own end). Raises SpecError.
    """

    name = "pbt"
    #: A clone goes on from a checkpoint.
    needs_checkpoints = True

    def __init__(
        self,
        *,
        interval: float,
        resource: str = "step",
        mutations: Mapping[str, Any] | None = None,
        quantile: float = 0.25,
        resample: float = 0.25,
        factors: Sequence[float] = (1.2, 0.8),
        selection: Selection = "truncation",
        burn_in: float = 0,
        synchronous: bool = False,
        max: float | None = None,
        explore: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        check_resource(self.name, resource)
        check_numbers(self.name, {"interval": interval, "quantile": quantile, "burn_in": burn_in, "max": max})
        if not 0 < interval < math.inf:
            raise SpecError(
                f"{self.name}: interval (of resource between two evaluations) must be above 0, got {interval!r}"
            )
        if not 0 < quantile <= 0.5:
            raise SpecError(
                f"{self.name}: quantile (the share that is replaced) must be above 0 and at most 0.5, got {quantile!r}"
            )
        if not 0 <= burn_in < math.inf:
            raise SpecError(
                f"{self.name}: burn_in (resource before the first exploit) must be from 0 on, got {burn_in!r}"
            )
        if max is not None and not max > 0:
            raise SpecError(f"{self.name}: max must be above 0, got {max!r}")
        if not isinstance(selection, str) or selection not in ("truncation", "binary_tournament"):
            raise SpecError(f"{self.name}: selection must be truncation or binary_tournament, got {selection!r}")
        if not isinstance(synchronous, bool):
            raise SpecError(f"{self.name}: synchronous must be true or false, got {synchronous!r}")
        self.resource, self.interval, self.quantile, self.selection = resource, interval, quantile, selection
        self.burn_in, self.synchronous, self.max = burn_in, synchronous, None if max == math.inf else max
        self.explore = explore
        self._explorer = Explorer(self.name, mutations, resample=resample, factors=factors, whole=explore)
        self.setup(metric="", mode="min", seed=0)

    def prepare(self, space: Space, metrics: Sequence[str], modes: Sequence[str]) -> None:
        """Take the search space. Raises SpecError for a mutation of a parameter that it does not have."""
        self._explorer.bind(space)

    def setup(self, *, metric: str, mode: str, seed: int) -> None:
        """Start without a population."""
        self._metric, self._sign, self._seed = metric, (1.0 if mode == "min" else -1.0), seed
        self._configs: dict[int, Config] = {}  # of those that live
        self._scores: dict[int, float] = {}  # their loss at the end of the last interval, where they saved
        self._evaluated: dict[int, float] = {}  # how far they were then
        self._reached: dict[int, float] = {}
        self._idle: dict[int, None] = {}  # those without a place: new, or paused to wait for others
        self._arrived: dict[int, None] = {}  # synchronous: those at the end of their interval
        self._generation, self._over = 0, False

    def until(self, trial: TrialView) -> tuple[float | None, bool]:
        """Return the next multiple of `interval`, and save there: others may go on from it."""
        at = reached(trial.last, self.resource)
        if self.max is not None and at >= self.max:
            return None, True
        return self._next(at), True

    def on_add(self, trial: TrialView) -> Decisions:
        """Take a new member."""
        number = trial.number
        self._configs[number], self._reached[number] = dict(trial.config), reached(trial.last, self.resource)
        self._idle[number], self._over = None, False
        return None

    def on_start(self, trial: TrialView) -> None:
        """Note that it has a place, and what config it trains with."""
        self._idle.pop(trial.number, None)
        self._configs[trial.number] = dict(trial.config)

    def on_report(self, trial: TrialView, report: Report) -> Decisions:
        """At the end of an interval, judge the trial; or the whole population, once all have arrived."""
        number, at, before = trial.number, reached(report, self.resource), self._reached[trial.number]
        self._reached[number], self._configs[number] = at, dict(trial.config)
        self._idle.pop(number, None)
        if self.max is not None and at >= self.max:
            return Stop(reason=f"{self.resource} {self.max:g}: reached max", completed=True)
        if self._interval(at) <= self._interval(before):
            return None
        loss = self._sign * float(report.value(self._metric))
        if number in self._scores:
            self._observe(number, self._evaluated[number], self._scores[number] - loss)
        self._scores[number], self._evaluated[number] = loss, at
        if self.synchronous:
            self._arrived[number] = None
            decisions = self._turn()
            if any(decision.trial == number for decision in decisions):
                return decisions
            waiting = f"{self.resource} {at:g}: {len(self._arrived)} of {len(self._configs)} have arrived"
            return [*decisions, Decision(number, Pause(reason=waiting))]
        place, source = self._exploit(number, sorted(self._scores))
        if source is not None:
            return self._clone(number, source, place)
        behind = min((self._reached[other] for other in self._idle), default=math.inf)
        if behind < at:
            self._idle[number] = None
            return Pause(reason=f"{place}; it lets a member that is behind ({self.resource} {behind:g}) catch up")
        return Continue(until=self._next(at), save=True, reason=place)

    def choose(self, candidates: Candidates) -> int | None:
        """Give the place to the member that is furthest behind."""
        found = [(reached(trial.last, self.resource), trial.number) for trial in candidates.waiting()]
        for number in self._idle:
            if (trial := candidates.paused(number)) is not None:
                found.append((reached(trial.last, self.resource), number))
        if not found:  # one that a person had paused on its way
            for number in self._configs:
                if number not in self._arrived and (trial := candidates.paused(number)) is not None:
                    found.append((reached(trial.last, self.resource), number))
        return min(found)[1] if found else None

    def on_end(self, trial: TrialView, status: str) -> Decisions:
        """Take a member out of the population."""
        for known in (self._configs, self._scores, self._evaluated, self._reached, self._idle, self._arrived):
            known.pop(trial.number, None)
        return self._turn() if self.synchronous else None

    def on_supply_end(self) -> Decisions:
        """The population is complete."""
        self._over = True
        return self._turn() if self.synchronous else None

    def outline(self, trials: int) -> str:
        """Say what can be known before anything runs: how many of a population of so many are replaced, and when."""
        size = math.floor(trials * self.quantile + 1e-9)
        every = f"every {self.interval:g} {self.resource}s" + (f" from {self.burn_in:g} on" if self.burn_in else "")
        what = (
            "each against one other, whose weights it takes over if they are better"
            if self.selection == "binary_tournament"
            else f"the worst {size} take over the weights of the best {size}"
        )
        return f"a population of {trials}, judged {every}: {what}; all train to the end, so nothing is saved"

    def to_spec(self) -> Mapping[str, Any]:
        """Return the name and the options by which `make_scheduler` builds it again."""
        names = ("interval", "resource", "quantile", "selection", "burn_in", "synchronous", "max")
        explorer = self._explorer
        mutations = {
            key: way.to_dict() if hasattr(way, "to_dict") else way for key, way in (explorer.given or {}).items()
        }
        return {
            "name": self.name,
            **{name: getattr(self, name) for name in names},
            "mutations": mutations if explorer.given is not None else None,
            "resample": explorer.resample,
            "factors": list(explorer.factors),
            **({"explore": self.explore} if self.explore is not None else {}),
        }

    def describe(self) -> Mapping[str, Any]:
        """Return the members, best first: the latest value of each, and how far it is."""
        ranked = sorted(self._scores, key=lambda number: (self._scores[number], number))
        return {
            "resource": self.resource,
            "generation": self._generation,
            "complete": self._over,
            "waiting": [*self._idle, *self._arrived],
            "members": [
                {"trial": number, "value": self._sign * self._scores[number], self.resource: self._evaluated[number]}
                for number in ranked
            ],
        }

    def state(self) -> Mapping[str, Any]:
        """Return the population as plain data: of each member its config, how far it is and its last evaluation."""
        return {
            "configs": [[number, to_json(config)] for number, config in self._configs.items()],
            **{name: list(getattr(self, f"_{name}").items()) for name in _BY_MEMBER},
            **{name: list(getattr(self, f"_{name}")) for name in _IN_ORDER},
            "generation": self._generation,
            "over": self._over,
        }

    def load_state(self, data: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._configs = {number: from_json(config) for number, config in data["configs"]}
        for name in _BY_MEMBER:
            setattr(self, f"_{name}", dict(map(tuple, data[name])))
        for name in _IN_ORDER:
            setattr(self, f"_{name}", dict.fromkeys(data[name]))
        self._generation, self._over = data["generation"], data["over"]

    # ------------------------------------------------------------------------------- exploit and explore

    def _exploit(self, number: int, members: Sequence[int]) -> tuple[str, int | None]:
        """Return where a member stands, in words, and whom it is to copy (None: nobody)."""
        ranked = sorted(members, key=lambda other: (self._scores[other], other))
        place = f"rank {ranked.index(number) + 1}/{len(ranked)}"
        if self._reached[number] < self.burn_in:
            return f"{place}, burning in until {self.resource} {self.burn_in:g}", None
        draw = rng(self._seed, number, f"exploit {self._reached[number]:g}")
        if self.selection == "binary_tournament":
            others = [other for other in ranked if other != number]
            if not others:
                return place, None
            rival = others[int(draw.integers(len(others)))]
            better = self._scores[rival] < self._scores[number]
            return f"{place}, tournament with trial {rival}", rival if better else None
        size = math.floor(len(ranked) * self.quantile + 1e-9)
        if not size or number not in ranked[-size:]:
            return place, None
        source = ranked[int(draw.integers(size))]
        return f"{place}, quantile {self.quantile:.0%}", source

    def _clone(self, number: int, source: int, place: str) -> Clone:
        at = self._reached[number]
        config, changes = self._explored(number, source, at)
        return Clone(
            source=source,
            config=config,
            until=self._next(at),
            save=True,
            reason=f"cloned from trial {source} at {self.resource} {self._evaluated[source]:g} ({place})"
            + (f"; {', '.join(changes)}" if changes else ""),
        )

    def _observe(self, number: int, since: float, gain: float) -> None:
        """Hear what an interval has gained."""

    def _explored(self, number: int, source: int, at: float) -> tuple[Config, list[str]]:
        """Return the source's config, changed, and what was changed in words."""
        return self._explorer.explore(self._configs[source], rng(self._seed, number, f"explore {at:g}"))

    def _turn(self) -> list[Decision]:
        """Judge the whole population at once, where all have arrived."""
        if not self._arrived or len(self._arrived) < len(self._configs) or not self._over:
            return []
        self._generation += 1
        decisions = self._judge(sorted(self._arrived))
        self._arrived.clear()
        return decisions

    def _judge(self, members: Sequence[int]) -> list[Decision]:
        """Decide about all members of a generation."""
        decisions = []
        for number in members:
            place, source = self._exploit(number, members)
            place = f"generation {self._generation}: {place}"
            if source is not None:
                decisions.append(Decision(number, self._clone(number, source, place)))
            else:
                until = self._next(self._reached[number])
                decisions.append(Decision(number, Continue(until=until, save=True, reason=place)))
        return decisions

    def _interval(self, at: float) -> int:
        return math.floor(at / self.interval + 1e-9)

    def _next(self, at: float) -> float:
        ahead = (self._interval(at) + 1) * self.interval
        return ahead if self.max is None else min(ahead, self.max)
