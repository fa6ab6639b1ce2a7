"""Several drivers share one cluster: each writes down what it wants, and takes no more than its part.

There is no coordinator that could die. All drivers see the same notes on a common board and find the same division of
the cluster (`allocation`). What is taken away from a driver it gives back at the end of its trials; where a search of
higher priority wants it, its trials save and make room.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tune_platform.cluster.allocation import Allocation, Place, Wish, allocate, quota_of
from tune_platform.errors import ExperimentError
from tune_platform.protocol.events import resources_to_data
from tune_platform.resources import Ledger, Resources

#: Seconds without a sign of life after which it is looked up whether a driver still lives.
_SILENT_S = 3.0


class Board(Protocol):
    """Where the drivers of one cluster leave notes for each other."""

    def write(self, note: str) -> None:
        """Put up this driver's note, in place of the one before."""

    def read(self) -> Mapping[str, str]:
        """Return the notes of all drivers by name, this one's too. Names sort by age, the oldest first."""

    def alive(self, names: Sequence[str]) -> set[str]:
        """Return which of these drivers live."""

    def remove(self, name: str) -> None:
        """Take a note down."""

    def quotas(self) -> Mapping[str, Mapping[str, float]]:
        """Return how much of each resource the searches of a user may hold together, by user."""

    @property
    def name(self) -> str:
        """This driver's name."""


class Share(NamedTuple):
    """What a driver may take: `places` trials at a time, which are these `parts` of the nodes (None: all there is).

    `reclaim`: why its trials beyond that are to make room at once; empty where they may end. `why`: why it has no more.
    """

    places: float
    parts: tuple[Mapping[str, float], ...] | None = None
    reclaim: str = ""
    why: str = ""


#: The share of one that is alone.
ALL = Share(math.inf)


class Standing(NamedTuple):
    """Who a driver is to the others: its part beside theirs, who comes first, and whose quota it counts to."""

    weight: float = 1.0
    priority: int = 0
    user: str = ""


class Kind(NamedTuple):
    """Trials of a driver that hold the same: how many of them run, wait and are to come, and where some run."""

    resources: Resources
    wanted: float = math.inf
    running: Sequence[Place] = ()


class Admission:
    """One driver's view of the board. `resources` are those of each of its trials, `most` how many run at a time."""

    def __init__(self, board: Board, resources: Resources, most: float, standing: Standing | None = None) -> None:
        self._board = board
        self._resources = resources
        self._most = most
        self._standing = standing or Standing()
        self._notes: dict[str, tuple[str, float]] = {}  # of the others: the note, and when it was last another one
        self._beat = 0
        self._idle_since = math.inf  # since when it waits with nothing running
        self._known: tuple[Any, dict[str, Allocation]] | None = None  # what was found last, and from what

    def check_quota(self) -> None:
        """Raise ExperimentError where the quota of its user would let it run nothing at all."""
        quota, resources = quota_of(self._standing.user, self._board.quotas()), self._resources
        for name, amount in resources.bundle().items():
            if amount * resources.workers > quota.get(name, math.inf):
                raise ExperimentError(
                    f"the quota of {self._standing.user or 'this user'} on this cluster is {quota[name]:g} {name}, and "
                    f"each trial holds {resources}: not one fits. Ask for less in `resources`, or have the "
                    "quota raised (tune-platform quota)"
                )

    def share(
        self,
        nodes: Mapping[str, Mapping[str, float]],
        *,
        active: bool,
        wanted: float = math.inf,
        running: Sequence[Place] = (),
        kinds: Sequence[Kind] = (),
        about: Mapping[str, Any] | None = None,
    ) -> Share:
        """Return what this driver may take of these nodes now, and tell the others what it wants.

        `active`: it has something to run. One that has not leaves its share to the others until it has. `wanted`: how
        many trials that is; `running`: where some run. `kinds`: the same where trials hold different things, the more
        urgent first. `about`: what people are told, see `standing.searches_of`.
        """
        kinds = list(kinds) or [Kind(self._resources, wanted, running)]
        ledger = Ledger(list(nodes.values()))
        if not any(ledger.slots(kind.resources) for kind in kinds):
            return ALL
        runs = sum(len(kind.running) for kind in kinds)
        now = time.monotonic()
        self._idle_since = math.inf if runs or not active else min(self._idle_since, now)
        self._beat += 1
        left = self._most
        asks: list[dict[str, Any]] = []
        for kind in kinds:
            most = min(left, max(kind.wanted, len(kind.running), 0 if asks else 1))
            left -= most
            asks.append({
                "most": most, "resources": resources_to_data(kind.resources),
                "running": Counter(map(",".join, kind.running)),
            })  # fmt: skip
        note = {
            "beat": self._beat, **asks[0], "others": asks[1:],
            "waited": round(max(0.0, now - self._idle_since)), **self._standing._asdict(), "about": about or {},
        }  # fmt: skip
        self._board.write(json.dumps(note if active else {**note, "most": 0, "others": []}))
        others = {name: note for name, note in self._board.read().items() if name != self._board.name}
        # Its own share is known while it wants nothing, too: for when it does.
        own = note if active else {**note, "most": self._most}
        notes = {name: json.loads(others[name]) for name in self._living(others)} | {self._board.name: own}
        wishes = [wish for name in sorted(notes) if notes[name]["most"] for wish in _wishes(name, notes[name])]
        quotas = self._board.quotas()
        if len({wish.search for wish in wishes}) == 1 and not quota_of(self._standing.user, quotas):
            return ALL
        key = (nodes, wishes, quotas)
        if self._known is None or self._known[0] != key:
            self._known = key, allocate(nodes, wishes, quotas)
        return self._take(nodes, self._known[1], wishes, notes, quotas, runs)

    def _take(
        self,
        nodes: Mapping[str, Mapping[str, float]],
        found: Mapping[str, Allocation],
        wishes: Sequence[Wish],
        notes: Mapping[str, Any],
        quotas: Mapping[str, Mapping[str, float]],
        runs: int,
    ) -> Share:
        """Return this driver's part of what was found."""
        user, count, capped = self._standing.user, 0, False
        parts = {name: dict.fromkeys(node, 0.0) for name, node in nodes.items()}
        for wish in wishes:
            if wish.search != self._board.name:
                continue
            count, capped = count + len(found[wish.name].places), capped or found[wish.name].capped
            for place in found[wish.name].places:
                for node in place:
                    for name, amount in wish.resources.taken().items():
                        parts[node][name] += amount
        higher = next((w for w in wishes if w.priority > self._standing.priority and found[w.name].places), None)
        why = reclaim = ""
        if capped:
            limits = ", ".join(f"{amount:g} {name}" for name, amount in quota_of(user, quotas).items())
            why = f"the quota of {user}: {limits}"
        elif higher is not None:
            why = f"{_named(notes[higher.search])} has priority {higher.priority}"
            reclaim = why if runs > count else ""
        elif len({wish.search for wish in wishes}) > 1:
            why = f"its share: {count} places of the cluster, while others want some too"
        offered = tuple(parts.values()) if count else ()  # of nothing it is not said that a trial does not fit
        return Share(count, offered, reclaim, why)

    def close(self) -> None:
        """Take this driver's note down."""
        self._board.remove(self._board.name)

    def _living(self, notes: Mapping[str, str]) -> list[str]:
        """Return the drivers that live, by their own clock's beat; one that was killed has left its note behind."""
        now = time.monotonic()
        before = self._notes
        self._notes = {
            name: before[name] if name in before and before[name][0] == note else (note, now)
            for name, note in notes.items()
        }
        silent = [name for name, (_, since) in self._notes.items() if now - since >= _SILENT_S]
        dead = set(silent) - self._board.alive(silent) if silent else set()
        for name in dead:
            self._board.remove(name)
        return [name for name in notes if name not in dead]


def _wishes(name: str, note: Mapping[str, Any]) -> list[Wish]:
    """Return what a driver wants of each kind; what it has waited counts for the first."""
    found = []
    for number, ask in enumerate([note, *note.get("others", ())]):  # a former release says nothing of others
        running = [tuple(place.split(",")) for place, count in sorted(ask["running"].items()) for _ in range(count)]
        found.append(Wish(
            name=f"{name}/{number}" if number else name, search=name, resources=Resources(**ask["resources"]),
            most=ask["most"], user=note["user"], weight=note["weight"], priority=note["priority"],
            waited=0 if number else note["waited"], running=running,
        ))  # fmt: skip
    return found


def _named(note: Mapping[str, Any]) -> str:
    return f"{note['about'].get('experiment', 'a search')} of {note['about'].get('who', note['user'] or 'somebody')}"
