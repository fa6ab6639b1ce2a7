"""What the searches of a cluster make known to its autoscaler: places for what runs, waits and is still to come.

The autoscaler holds one request for the whole cluster, which the last to ask replaces. So each driver leaves a note of
its own, and asks for the sum of the notes of all that live. Ray: `ray.autoscaler.sdk.request_resources`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tune_platform.cluster.admission import Board
from tune_platform.resources import Resources

logger = logging.getLogger(__name__)

Bundles = list[dict[str, float]]


class Demand:
    """One driver's part in it. `request` tells the autoscaler; `most`: trials that it asks for at a time."""

    def __init__(self, board: Board, request: Callable[[Bundles], None], most: float) -> None:
        self._board, self._request, self._most = board, request, most
        self._note = ""
        self._asked: Bundles | None = None

    def tell(self, trials: Sequence[tuple[Resources, int]]) -> None:
        """Ask for places for so many trials of each kind, the most urgent first."""
        left, asks = self._most, []
        for resources, count in trials:
            taken = int(min(count, left))
            left -= taken
            if taken and resources.bundle():
                asks.append([resources.bundle(), taken * resources.workers])
        note = json.dumps(asks)
        if note != self._note:
            self._note = note
            self._board.write(note)
        self._ask()

    def withdraw(self) -> None:
        """Ask for nothing any more; what others want stays."""
        self._board.remove(self._board.name)
        self._ask()

    def _ask(self) -> None:
        notes = self._board.read()
        alive = self._board.alive([name for name in notes if name != self._board.name]) | {self._board.name}
        for name in notes.keys() - alive:
            self._board.remove(name)
        bundles = [bundle for name in sorted(notes.keys() & alive) for bundle in _bundles(notes[name])]
        if bundles != self._asked:
            self._asked = bundles
            logger.debug("the autoscaler is asked for places for %d workers", len(bundles))
            self._request(bundles)


def _bundles(note: str) -> Bundles:
    asks: Sequence[tuple[Mapping[str, Any], int]] = json.loads(note)
    return [dict(bundle) for bundle, count in asks for _ in range(count)]
