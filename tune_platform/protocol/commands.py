"""What is to be done once the facts that it follows from are committed."""

from __future__ import annotations

from dataclasses import dataclass

from tune_platform.protocol.reports import CheckpointRef, Config
from tune_platform.protocol.searcher import Outcome
from tune_platform.protocol.verdicts import Verdict
from tune_platform.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ask the searcher for the suggestion of trial number `trial`."""

    trial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Tell the searcher how a trial ended, or how far it is where it pauses."""

    trial: int
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Start (or start again, or resume) a trial on a free place and run it until the milestone.

    `start` is the trial's step that the checkpoint stands for (0 without one; for a clone it is not the step
    that the source wrote it at). Reports up to and including `committed` are known already: they are done again but
    not sent again. After these of them it is saved `again`: another is to go on from there, and what had been saved
    was lost with a process's memory.
    """

    trial: int
    attempt: int
    config: Config
    checkpoint: CheckpointRef | None
    start: int
    committed: int
    until: float | None
    save: bool
    resources: Resources
    nodes: tuple[int, ...]  # of each worker: indices into CapacityChanged.nodes
    seconds: float = 0.0  # of all steps so far, where they are counted (`time_total_s`)
    again: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """Let a trial that waits at its milestone go on to the next."""

    trial: int
    until: float | None
    save: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """Have a running trial write a checkpoint after its present step; answered by Saved.

    It reaches the trial at any time, also between milestones. `halt`: the trial then waits, as at a milestone.
    """

    trial: int
    halt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """End a trial's lease. `kill` ends the process too (a hang, or a step that must not be waited for).

    `warm` keeps the trial's object in memory, where the backend has room, for a quicker Launch later on.
    """

    trial: int
    kill: bool = False
    warm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DropCheckpoints:
    """Delete these checkpoints: no policy keeps them and no trial needs them."""

    trial: int
    checkpoints: tuple[CheckpointRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Write a verdict, with its reason, into the log."""

    trial: int
    step: int
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The experiment is over. `status`: finished | failed | stopped."""

    status: str
    reason: str


Command = Ask | Tell | Launch | Advance | Save | Release | DropCheckpoints | Decide | Finish
