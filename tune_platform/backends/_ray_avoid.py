"""Which nodes are to be avoided: those where trial after trial fails while others go well elsewhere."""

from __future__ import annotations

#: Different trials that fail on a node in a row before it is avoided.
IN_A_ROW = 5
#: What a machine may be the reason of: a broken GPU raises, a broken disk kills.
_MAY_BE_ITS_FAULT = ("exception", "worker_died", "out_of_memory")


class Rows:
    """The trials that have failed in a row, by node. Nodes are named by their places."""

    def __init__(self) -> None:
        self._failed: dict[int, dict[int, None]] = {}  # those since the last that went well there
        self._began: dict[int, int] = {}  # ... and when the first of them did
        self._well: dict[int, int] = {}  # when a trial last went well there
        self._clock = 0  # counts what was noted

    def went_well(self, node: int) -> None:
        """Note that a trial has reached its milestone or its end there."""
        self._clock += 1
        self._well[node] = self._clock
        self._failed.pop(node, None)

    def failed(self, node: int, trial: int, cause: str) -> bool:
        """Note that a trial has failed there; True where it is to be avoided from now on.

        Where none has gone well elsewhere meanwhile, it is the code that fails, or everything: nothing is avoided then.
        """
        if cause not in _MAY_BE_ITS_FAULT:
            return False
        self._clock += 1
        row = self._failed.setdefault(node, {})
        if not row:
            self._began[node] = self._clock
        row[trial] = None
        elsewhere = (when for other, when in self._well.items() if other != node)
        return len(row) >= IN_A_ROW and max(elsewhere, default=0) > self._began[node]
