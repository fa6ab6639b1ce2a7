"""How the places of a cluster are divided among the searches on it. Pure: whoever knows the same finds the same.

Within one priority by weighted dominant-resource fairness (Ghodsi et al. 2011, "Dominant Resource Fairness"): the next
place is for the search that has the least, measured by the resource of which it has the largest part of the cluster,
for its weight. A gang's place is whole or none. A higher priority is served first, and what it leaves is for the
others. A search that has waited for long with nothing running has its first place before the others of its priority: so
each comes to its turn where there is not a place for all, and a gang is not starved by small trials.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune_platform.resources import Ledger, Resources

#: Seconds for which a search waits with nothing running, after which its first place comes before those of others.
PATIENCE_S = 3.0
#: The quota of users who have none of their own.
EVERYBODY = "everybody"
_EPSILON = 1e-6

Place = tuple[str, ...]  # the node of each worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a search wants: `most` places for trials that hold `resources`.

    `running`: where its trials are; it keeps these as far as it can. `waited`: seconds with nothing running. One whose
    trials hold different things has a wish for each kind, the more urgent first; `search` says which are of one.
    """

    name: str
    resources: Resources
    most: float
    user: str = ""
    weight: float = 1.0
    priority: int = 0
    waited: float = 0.0
    running: Sequence[Place] = ()
    search: str = ""  # empty: the name


@dataclass(frozen=True, slots=True)
class Allocation:
    """The places of a search. `capped`: it would have more, but for the quota of its user."""

    places: list[Place]
    capped: bool = False


def allocate(
    nodes: Mapping[str, Mapping[str, float]],
    wishes: Sequence[Wish],
    quotas: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Allocation]:
    """Divide nodes among wishes, of which the longest-standing comes first; `quotas` are amounts by user."""
    quotas = quotas or {}
    cluster = _Cluster(nodes)
    used: dict[str, Counter[str]] = {wish.user: Counter() for wish in wishes}
    total: Counter[str] = Counter()
    for node in nodes.values():
        total.update(node)
    found = {}
    for priority in sorted({wish.priority for wish in wishes}, reverse=True):
        some = [wish for wish in wishes if wish.priority == priority]
        counts, capped = _count(cluster.ledger.rest(), some, total, quotas, used)
        for wish in some:
            if _hungry(wish):
                cluster.fill(wish, min(1, counts[wish.name]))
        for wish in some:
            cluster.keep(wish, counts[wish.name])
        for wish in some:
            cluster.fill(wish, counts[wish.name])
        for wish in some:  # what those who stay where they are have left in pieces
            if wish.resources.bundle() and not quota_of(wish.user, quotas):
                cluster.fill(wish, wish.most)
        found.update({wish.name: Allocation(cluster.places[wish.name], wish.name in capped) for wish in some})
    return found


class _Cluster:
    """Which place is whose so far."""

    def __init__(self, nodes: Mapping[str, Mapping[str, float]]) -> None:
        self.order = sorted(nodes)
        self.ledger = Ledger([nodes[name] for name in self.order])
        self.places: dict[str, list[Place]] = defaultdict(list)

    def fill(self, wish: Wish, most: float) -> None:
        """Give a search places wherever they are, until it has so many or no more fits."""
        while len(self.places[wish.name]) < most and (nodes := self.ledger.place(wish.resources)) is not None:
            self._put(wish, nodes)

    def keep(self, wish: Wish, most: float) -> None:
        """Give a search the places that it has, until it has so many."""
        for place in wish.running:
            nodes = [self.order.index(node) for node in place if node in self.order]
            there = len(nodes) == len(place) and self.ledger.has_room(wish.resources, nodes)
            if there and len(self.places[wish.name]) < most:
                self._put(wish, nodes)

    def _put(self, wish: Wish, nodes: Sequence[int]) -> None:
        self.ledger.hold(self.ledger.leases(), wish.resources, nodes)
        self.places[wish.name].append(tuple(self.order[node] for node in nodes))


def quota_of(user: str, quotas: Mapping[str, Mapping[str, float]]) -> Mapping[str, float]:
    """Return what a user's searches may hold together, by resource; what is not named is not limited."""
    return quotas.get(user, quotas.get(EVERYBODY, {}))


def _hungry(wish: Wish) -> bool:
    return not wish.running and wish.waited >= PATIENCE_S


def _count(
    ledger: Ledger,
    wishes: Sequence[Wish],
    total: Mapping[str, float],
    quotas: Mapping[str, Mapping[str, float]],
    used: dict[str, Counter[str]],
) -> tuple[Counter[str], set[str]]:
    """Return how many places each of them gets, and which of them a quota keeps from more."""
    counts: Counter[str] = Counter()
    parts: dict[str, float] = defaultdict(float)  # of each search, of its dominant resource
    holds: dict[str, Counter[str]] = defaultdict(Counter)
    capped: set[str] = set()
    # Where all else is equal who runs something keeps it; then comes who has waited longer, then who is older.
    wishes = sorted(wishes, key=lambda wish: (not wish.running, -wish.waited))
    queue = [(-wish.waited if _hungry(wish) else 0.0, 0.0, rank) for rank, wish in enumerate(wishes)]
    heapq.heapify(queue)
    leases = 0
    while queue:
        first, part, rank = heapq.heappop(queue)
        wish = wishes[rank]
        search = wish.search or wish.name
        if part < parts[search] and not first:  # another kind of its trials has got a place since
            heapq.heappush(queue, (0.0, parts[search], rank))
            continue
        held = {name: amount * wish.resources.workers for name, amount in wish.resources.bundle().items()}
        if counts[wish.name] + 1 > wish.most or not held:
            continue
        quota, has = quota_of(wish.user, quotas), used[wish.user]
        if any(has[name] + amount > quota.get(name, float("inf")) + _EPSILON for name, amount in held.items()):
            capped.add(wish.name)
            continue
        leases += 1
        if ledger.lease(leases, wish.resources) is None:
            continue
        counts[wish.name] += 1
        has.update(held)
        holds[search].update(held)
        parts[search] = max(amount / total[name] for name, amount in holds[search].items()) / wish.weight
        heapq.heappush(queue, (0.0, parts[search], rank))
    return counts, capped
