"""What a scheduler decides about a trial."""

from __future__ import annotations

from dataclasses import dataclass

from tune_platform.protocol.reports import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Continue:
    """Go on until the resource attribute reaches `until` (None: until the trial ends by itself).

    `save` asks the worker for a checkpoint when it gets there, so that a pause or a clone that is likely
    to follow costs no further message.
    """

    until: float | None
    reason: str = ""
    save: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Give the place back but keep the trial; `choose` may send it on later from its checkpoint."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End the trial. `completed`: because it has done all it was meant to, not because others are better."""

    reason: str
    completed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """Go on from the latest checkpoint of trial `source` with `config` instead (PBT's exploit, explore)."""

    source: int
    config: Config
    until: float | None
    reason: str
    save: bool = True


Verdict = Continue | Pause | Stop | Clone
