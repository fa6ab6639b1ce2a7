"""What a scheduler decides about a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tune_platform.protocol.reports import Config
from tune_platform.resources import Resources


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
    """Go on from the latest checkpoint of trial `source` with `config` instead (PBT's exploit, explore).

    Where `source` is the trial itself, it goes on from its own, with another config.
    """

    source: int
    config: Config
    until: float | None
    reason: str
    save: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Go on in a place of another size: from a checkpoint, after what runs has saved, as soon as it fits."""

    resources: Resources
    reason: str


Verdict = Continue | Pause | Stop | Clone | Resize


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on any trial that has not ended: running, paused or waiting.

    Continue sends a paused trial on as soon as it gets a place; one that runs and is between its milestones goes on
    anyway, to the milestone that it has. Pause takes effect after the present step. Clone gives a trial another
    checkpoint and config; a paused one is sent on with them, a running one begins anew in its place. What comes too
    late, because the trial has ended, changes nothing.
    """

    trial: int
    verdict: Verdict


#: What a scheduler answers: nothing, a verdict on the trial that it was told of, or decisions about any trials.
Decisions = Verdict | Sequence[Decision] | None
