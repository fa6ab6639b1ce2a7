"""Several drivers share one cluster: each writes down what it wants, and takes no more than its fair share.

There is no coordinator. All drivers see the same notes on a common board and divide the cluster in the same way: as a
line from 0 to 1, on which each of them has a stretch as long as its weight, the longest-standing driver first. A driver
that wants less than that has what it wants, and the rest is divided among the others. What is taken away from a driver
it gives back at the end of its trials; no trial is interrupted.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tune_platform.resources import Ledger, Resources

_EPSILON = 1e-6
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

    @property
    def name(self) -> str:
        """This driver's name."""


class Share(NamedTuple):
    """What a driver may take: `places` trials at a time, after the first `skip` places of the cluster.

    `crowded`: there are more drivers than places, so each has one in turn, for the length of a trial.
    """

    skip: float
    places: float
    crowded: bool = False


#: The share of one that is alone.
ALL = Share(0, math.inf)


def divide(wants: Mapping[str, float], weights: Mapping[str, float] | None = None) -> dict[str, tuple[float, float]]:
    """Divide the line from 0 to 1: the stretch of each driver, which wants that much of it, in the order given.

    By their `weights` (1 where there is none): one of weight 2 has twice as much as one of weight 1. What a driver does
    not want is divided among the others in the same way (weighted max-min fairness).
    """
    given = dict.fromkeys(wants, 0.0)
    hungry, left = dict(wants), 1.0
    while hungry and left > _EPSILON:
        unit = left / sum((weights or {}).get(name, 1.0) for name in hungry)
        for name, want in list(hungry.items()):
            taken = min(unit * (weights or {}).get(name, 1.0), want - given[name])
            given[name] += taken
            left -= taken
            if want - given[name] <= _EPSILON:
                del hungry[name]
    stretches, at = {}, 0.0
    for name, amount in given.items():
        stretches[name] = (at, at + amount)
        at += amount
    return stretches


class Admission:
    """One driver's view of the board. `resources` are those of each of its trials, `most` how many run at a time.

    `weight`: its part beside those of the others.
    """

    def __init__(self, board: Board, resources: Resources, most: float, weight: float = 1.0) -> None:
        self._board = board
        self._resources = resources
        self._most = most
        self._weight = weight
        self._notes: dict[str, tuple[str, float]] = {}  # of the others: the note, and when it was last another one
        self._beat = 0

    def share(
        self, nodes: Sequence[Mapping[str, float]], *, active: bool, about: Mapping[str, Any] | None = None
    ) -> Share:
        """Return what this driver may take of these nodes now, and tell the others what it wants.

        `active`: it has something to run. One that has not leaves its share to the others until it has. `about`: what
        people are told of it besides, see `standing.searches_of`.
        """
        fits = Ledger(nodes).slots(self._resources)
        if fits == 0:
            return ALL
        wants = min(1.0, self._most / fits)
        self._beat += 1
        note = {"wants": wants if active else 0.0, "beat": self._beat, "weight": self._weight, **(about or {})}
        self._board.write(json.dumps(note))
        notes = {name: note for name, note in self._board.read().items() if name != self._board.name}
        alive = self._living(notes)
        read = {name: json.loads(notes[name]) for name in alive}
        all_wants = {name: float(note["wants"]) for name, note in read.items() if note["wants"] > 0}
        weights = {name: float(note.get("weight", 1.0)) for name, note in read.items()}
        weights[self._board.name] = self._weight
        if not all_wants:
            return ALL
        all_wants[self._board.name] = wants
        start, end = divide(dict(sorted(all_wants.items())), weights)[self._board.name]
        first, last = (math.floor(edge * fits + _EPSILON) for edge in (start, end))
        return Share(min(first, fits - 1), max(1, last - first), crowded=len(all_wants) > fits)

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


def offered(
    nodes: Sequence[Mapping[str, float]], resources: Resources, share: Share
) -> tuple[Mapping[str, float], ...]:
    """Return the part of the nodes that is this share, for trials that all hold the same resources.

    It holds at least one trial, wherever the cluster does.
    """
    if share.places == math.inf:
        return tuple(dict(node) for node in nodes)
    ledger, parts = Ledger(nodes), [dict.fromkeys(node, 0.0) for node in nodes]
    for place in range(int(share.skip + share.places)):
        placed = ledger.lease(place, resources)
        if placed is None:
            break
        if place >= share.skip:
            for node in placed:
                for name, amount in resources.bundle().items():
                    parts[node][name] += amount
    return tuple(parts)
