"""Resources of a trial, and the pure ledger that says which trial fits where.

Amounts are Ray's: `cpu` and `gpu` may be fractions, custom resources are named. A trial of several workers (a
gang) is placed as one unit: all its bundles or none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Literal, get_args

from tune_platform.errors import SpecError, did_you_mean

Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]

#: Ray's resource of a node that has GPUs of a type, and how much of it a trial takes that wants that type.
_TYPE, _SOME = "accelerator_type:", 0.001
#: Sums of fractions such as ten times 0.1 must still fit into one.
_EPSILON = 1e-6
#: Shapes of which a ledger remembers whether and how often they fit.
_SHAPES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one trial holds while it runs: `workers` bundles of `cpu`, `gpu` and `custom` each.

    `accelerator`: the type of its GPUs, under Ray's name for it ("A100"); nodes of another are left alone. `strategy`:
    PACK fills node after node, SPREAD takes the node with the most room, also for trials of one worker. `grow`: it has
    twice as much where there is room and no other trial is left that could use it.

    Raises SpecError for a negative amount, no worker, an unknown strategy, or an accelerator that is no name.
    """

    cpu: float = 1.0
    gpu: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)
    workers: int = 1
    strategy: Strategy = "PACK"
    accelerator: str = ""
    grow: bool = False

    def __post_init__(self) -> None:
        for name, amount in {"cpu": self.cpu, "gpu": self.gpu, **self.custom}.items():
            if not 0 <= amount < float("inf"):
                raise SpecError(f"resource {name}: must be a number of at least 0, got {amount!r}")
        if self.gpu > 1 and self.gpu != int(self.gpu):
            whole = int(self.gpu)
            raise SpecError(
                f"resource gpu: got {self.gpu!r}; Ray shares one GPU between trials or gives whole ones: "
                f"a fraction below 1, or {whole} or {whole + 1}"
            )
        if self.workers < 1:
            raise SpecError(f"workers: must be at least 1, got {self.workers!r}")
        if not isinstance(self.accelerator, str) or not re.fullmatch(r"[\w.-]*", self.accelerator):
            raise SpecError(
                f"accelerator: got {self.accelerator!r}; the name of a type is wanted, such as A100 or H100"
            )
        if not isinstance(self.grow, bool):
            raise SpecError(f"grow: got {self.grow!r}; true or false is wanted")
        # One that holds nothing would fit for ever.
        if self.grow and not (self.cpu or self.gpu or (self.workers > 1 and any(self.custom.values()))):
            raise SpecError("grow: the trial holds no CPU and no GPU that could be doubled; give cpu or gpu")
        known = get_args(Strategy)
        if self.strategy not in known:
            hint = did_you_mean(str(self.strategy).upper(), known)
            raise SpecError(f"strategy: must be one of {', '.join(known)}, got {self.strategy!r}{hint}")

    def bundle(self) -> dict[str, float]:
        """Return the resources of one worker by name, without those that are zero."""
        amounts = {"cpu": self.cpu, "gpu": self.gpu, **self.custom}
        if self.accelerator:
            amounts[_TYPE + self.accelerator] = _SOME
        return {name: float(amount) for name, amount in amounts.items() if amount > 0}

    def taken(self) -> dict[str, float]:
        """Return what a worker takes of its node: a fraction of a GPU is not put together from the rests of several.

        Of 0.6 GPUs one fits on each, of 0.4 two. Where fractions differ this is a little more than has to be.
        """
        bundle = self.bundle()
        if 0 < self.gpu < 1:
            bundle["gpu"] = 1 / math.floor(1 / self.gpu + _EPSILON)
        return bundle

    def grown(self) -> Resources:
        """Return twice as much: twice the workers of a gang, else twice the CPUs and GPUs."""
        if self.workers > 1:
            return replace(self, workers=2 * self.workers)
        return replace(self, cpu=2 * self.cpu, gpu=min(1.0, 2 * self.gpu) if self.gpu < 1 else 2 * self.gpu)

    def __hash__(self) -> int:
        return hash((self.cpu, self.gpu, self.workers))  # the rest is rare, and `custom` is a dict

    def __str__(self) -> str:
        amounts = {"cpu": self.cpu, "gpu": self.gpu, **self.custom}
        parts = [f"{amount:g} {name}" for name, amount in amounts.items() if amount > 0]
        bundle = ", ".join([*parts, *([self.accelerator] if self.accelerator else [])]) or "nothing"
        return bundle if self.workers == 1 else f"{self.workers} x ({bundle}), {self.strategy}"


class Ledger:
    """What is leased and what is free, per node. Pure: it only counts."""

    def __init__(self, nodes: Sequence[Mapping[str, float]] = ()) -> None:
        self._leases: dict[int, list[tuple[int, dict[str, float]]]] = {}  # trial -> (node, bundle) of each worker
        self.growing: set[int] = set()  # those of them that may grow
        self.peak: list[dict[str, float]] = []  # the most that each node has had
        self.resize(nodes)

    def resize(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """Take a new capacity; leases stay, so that a shrunken node may be overdrawn until they end.

        No nodes at all: another cluster is to be told of, and what this one had does not count for it.
        """
        self.capacity: list[dict[str, float]] = [dict(node) for node in nodes]
        self.note_peak(nodes)
        self._free = [dict(node) for node in nodes]
        for lease in self._leases.values():
            for node, bundle in lease:
                if node < len(self._free):
                    _add(self._free[node], bundle, -1.0)
        self._overdrawn = [dict(free) for free in self._free]  # as it was then: that may only become less
        self._fits: dict[Resources, bool] = {}  # what `fits` has found since the last change
        self._possible: dict[Resources, bool] = {}
        self._once: dict[Resources, bool] = {}
        self._slots: dict[Resources, int] = {}

    def note_peak(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """Note what nodes have, or had before; none: nothing is known of any."""
        self._once = {}
        if not nodes:
            self.peak = []
            return
        none: Mapping[str, float] = {}
        both = zip_longest(self.peak, nodes, fillvalue=none)
        self.peak = [{**old, **{name: max(old.get(name, 0.0), new[name]) for name in new}} for old, new in both]

    @property
    def is_empty(self) -> bool:
        """Whether there is no node with anything to hold; lost ones keep their places, with nothing."""
        return not any(self.capacity)

    def fits(self, resources: Resources) -> bool:
        """Whether the gang fits now. Asking again before anything has changed costs a look-up."""
        known = self._fits.get(resources)
        if known is None:
            _make_room(self._fits)
            known = self._fits[resources] = self.place(resources) is not None
        return known

    def possible(self, resources: Resources) -> bool:
        """Whether the gang would fit if the whole cluster were idle."""
        known = self._possible.get(resources)
        if known is None:
            _make_room(self._possible)
            known = self._possible[resources] = self.place(resources, self.capacity) is not None
        return known

    def was_possible(self, resources: Resources) -> bool:
        """Whether the gang would fit if no node were lost or smaller than it was once."""
        known = self._once.get(resources)
        if known is None:
            _make_room(self._once)
            known = self._once[resources] = self.possible(resources) or self.place(resources, self.peak) is not None
        return known

    def slots(self, resources: Resources, *, free: bool = False) -> int:
        """Return how many such trials an idle cluster holds, or (`free`) how many fit now, at a cost of O(nodes).

        For gangs that is about how many.
        """
        if not free:
            if resources not in self._slots:
                _make_room(self._slots)
                self._slots[resources] = self._count_slots(resources, self.capacity)
            return self._slots[resources]
        return self._count_slots(resources, self._free)

    @staticmethod
    def _count_slots(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> int:
        bundle = resources.taken()
        if not bundle:
            return 0
        counts = [
            max(0, int(min((node.get(name, 0.0) + _EPSILON) // amount for name, amount in bundle.items())))
            for node in nodes
        ]
        if resources.strategy == "STRICT_PACK":
            return sum(count // resources.workers for count in counts)
        return sum(counts) // resources.workers

    def place(self, resources: Resources, nodes: Sequence[Mapping[str, float]] | None = None) -> list[int] | None:
        """Return the node of each worker, or None where the gang does not fit into what is free, or into `nodes`."""
        nodes = self._free if nodes is None else nodes
        bundle, workers = resources.taken(), resources.workers
        if workers == 1 or resources.strategy == "STRICT_PACK":
            total = bundle if workers == 1 else {name: amount * workers for name, amount in bundle.items()}
            node: int | None
            if resources.strategy in ("SPREAD", "STRICT_SPREAD"):
                fitting = [node for node, amounts in enumerate(nodes) if _fits(amounts, total)]
                node = max(fitting, key=lambda node: _room(nodes[node], total), default=None)
            else:
                node = next((node for node, amounts in enumerate(nodes) if _fits(amounts, total)), None)
            return None if node is None else [node] * workers
        free = [dict(node) for node in nodes]
        spread = resources.strategy in ("SPREAD", "STRICT_SPREAD")
        placed: list[int] = []
        for _ in range(workers):
            fitting = [node for node, amounts in enumerate(free) if _fits(amounts, bundle)]
            if resources.strategy == "STRICT_SPREAD":
                fitting = [node for node in fitting if node not in placed]
            if not fitting:
                return None
            # PACK fills the nodes in order; SPREAD takes the node with the fewest workers of this gang.
            chosen = min(fitting, key=placed.count) if spread else fitting[0]
            _add(free[chosen], bundle, -1.0)
            placed.append(chosen)
        return placed

    def lease(self, trial: int, resources: Resources) -> list[int] | None:
        """Give the trial its resources and return the node of each worker; None (and no change) if it does not fit."""
        nodes = self.place(resources)
        if nodes is not None:
            self.hold(trial, resources, nodes)
        return nodes

    def hold(self, trial: int, resources: Resources, nodes: Sequence[int]) -> None:
        """Give the trial a bundle on each of these nodes, whether it fits or not (it did when the log was written)."""
        bundle = resources.taken()
        self._leases[trial] = [(node, bundle) for node in nodes]
        if resources.grow:
            self.growing.add(trial)
        for node in nodes:
            if node < len(self._free):
                _add(self._free[node], bundle, -1.0)
        # What did not fit before does not fit now.
        self._fits = {shape: False for shape, fits in self._fits.items() if not fits}

    def release(self, trial: int) -> None:
        """Take back whatever the trial holds; nothing if it holds nothing."""
        self.growing.discard(trial)
        lease = self._leases.pop(trial, None)
        if lease is None:
            return
        for node, bundle in lease:
            if node < len(self._free):
                _add(self._free[node], bundle, 1.0)
        self._fits.clear()

    def holds(self, trial: int) -> bool:
        """Whether the trial holds a lease."""
        return trial in self._leases

    def nodes(self, trial: int) -> list[int]:
        """Return the node of each worker of a trial that holds a lease."""
        return [node for node, _ in self._leases[trial]]

    def rest(self) -> Ledger:
        """Return a ledger of its own of what is free now."""
        return Ledger(self._free)

    def has_room(self, resources: Resources, nodes: Sequence[int]) -> bool:
        """Whether a bundle on each of these nodes is free."""
        free, bundle = {node: dict(self._free[node]) for node in nodes}, resources.taken()
        for node in nodes:
            if not _fits(free[node], bundle):
                return False
            _add(free[node], bundle, -1.0)
        return True

    def fits_instead(self, trial: int, resources: Resources) -> bool:
        """Whether a trial could hold this in place of what it holds."""
        free = [dict(node) for node in self._free]
        for node, bundle in self._leases[trial]:
            if node < len(free):
                _add(free[node], bundle, 1.0)
        return Ledger(free).place(resources) is not None

    def leases(self) -> int:
        """Return how many trials hold a lease."""
        return len(self._leases)

    def excess(self, trials: Iterable[int], leaving: Collection[int]) -> list[int]:
        """Return which trials, in this order, have to go for no node to be overdrawn once `leaving` have left."""
        free, found = [dict(node) for node in self._free], []

        def give_back(trial: int) -> None:
            for node, bundle in self._leases[trial]:
                if node < len(free):
                    _add(free[node], bundle, 1.0)

        for trial in leaving:
            give_back(trial)
        for trial in trials:
            short = any(node >= len(free) or not _fits(free[node], dict.fromkeys(bundle, 0.0))
                        for node, bundle in self._leases[trial])  # fmt: skip
            if short and trial not in leaving:
                give_back(trial)
                found.append(trial)
        return found

    def check(self) -> None:
        """Raise AssertionError if more is leased than there is, or was when a node shrank (for tests)."""
        for node, amounts in enumerate(self._free):
            for name, amount in amounts.items():
                least = min(0.0, self._overdrawn[node].get(name, 0.0))
                assert amount >= least - _EPSILON, f"node {node} is overdrawn: {name} {amount:g}"


def _make_room(known: dict[Resources, Any]) -> None:
    """Forget what was found out about shapes, once there are many: resources drawn from a continuum never end."""
    if len(known) >= _SHAPES:
        known.clear()


def _fits(free: Mapping[str, float], bundle: Mapping[str, float]) -> bool:
    for name, amount in bundle.items():  # noqa: SIM110 (a loop is twice as fast as all(), and this is hot)
        if free.get(name, 0.0) + _EPSILON < amount:
            return False
    return True


def _room(free: Mapping[str, float], bundle: Mapping[str, float]) -> float:
    return min((free.get(name, 0.0) / amount for name, amount in bundle.items()), default=0.0)


def _add(free: dict[str, float], bundle: Mapping[str, float], sign: float) -> None:
    for name, amount in bundle.items():
        free[name] = free.get(name, 0.0) + sign * amount
