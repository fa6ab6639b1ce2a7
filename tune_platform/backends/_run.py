"""A trial that an executor holds: how far it is, and what its reports say of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from tune_platform.backends._batch import Failure
from tune_platform.backends._mistakes import Failing, misreported, reported
from tune_platform.isolation.process import State as ProcessState
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.milestones import bad_metric, betters
from tune_platform.protocol.reports import ALWAYS, Report, finite
from tune_platform.store.checkpoints import Draft
from tune_platform.trainable import Trainable


@dataclass(slots=True)
class Run:
    """A trial that this executor holds."""

    launch: Launch
    trainable: Trainable
    step: int
    seconds: float = 0.0  # of all steps so far
    progress: float | None = None  # the resource attribute of the last report of this attempt
    names: dict[str, None] = field(default_factory=dict)  # of all metrics that this attempt reported
    best: float | None = None  # of the first metric in this attempt, where checkpoints depend on it
    better: bool = False  # the last step has reported it, or asked for a checkpoint
    saved_step: int = -1
    draft: Draft | None = None  # copied from what the function's last report brought
    restored: ExitStack = field(default_factory=ExitStack)  # holds the checkpoint that it was resumed from
    state: ProcessState | None = None  # of the process, as a paused trial has left it

    def goes_on(self, launch: Launch) -> bool:
        """Whether what is in memory is what `launch` goes on from: the same trial, exactly where the log ends."""
        own = launch.checkpoint is None or launch.checkpoint.trial == launch.trial
        return own and self.step == launch.committed and dict(self.launch.config) == dict(launch.config)

    def judge(self, report: Report, job: Job) -> None:
        """Take in what a report says. Raises Failing where a metric of the search is no finite number."""
        self.names.update(dict.fromkeys(report.metrics))
        if job.on_bad_metric == "fail" and (bad := bad_metric(report, job.metrics)) is not None:
            value = report.metrics[bad]
            message = f"metric {bad!r} is {value!r} at step {report.step}, which is not a finite number"
            raise Failing(Failure("bad_metric", message))
        if job.checkpoint_best and betters(report, job.metrics[0], job.checkpoint_best, self.best):
            self.best, self.better = finite(report.metrics[job.metrics[0]]), True

    def check_reported(self, job: Job, at: float | None = None) -> None:
        """Fail where a metric has not come by the end, or by the first milestone, which lies `at`."""
        # An attempt that goes on from a checkpoint may end before its next validation: that is no mistake.
        if self.launch.checkpoint is None:
            for name in job.metrics:
                if name not in self.names and name not in ALWAYS:
                    known = reported(name, self.names)
                    if at is None:
                        misreported(f"metric {name!r} is never reported; {known}")
                    misreported(
                        f"metric {name!r} is not reported up to {job.resource} {at:g}, where the scheduler "
                        f"judges it first; {known}. Where it first comes at 5, say `min: 5`"
                    )
