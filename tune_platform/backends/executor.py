"""Runs one trial at a time in this process: the worker's side of every backend that runs real code.

An executor begins a trial, lets it run until its milestone (or until somebody wants something else of it), and
says how it stands. Whatever the training code does wrong becomes a failure with a cause; nothing but an interrupt
leaves an executor as an exception. Every worker process imports this module: it loads neither Ray
nor the store's database nor numpy.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tune_platform.backends._batch import Failure, State, failure_of, traceback_of
from tune_platform.backends._memory import Copy, Fetch, FilesCopy, Memory, StateCopy
from tune_platform.backends._mistakes import Failing, ends_the_run, misreported, progress_of, resolve
from tune_platform.backends._run import Run
from tune_platform.backends._writer import InMemory, Writer, Written, drafted
from tune_platform.distributed.gang import Gang, GangKind
from tune_platform.errors import CheckpointError
from tune_platform.isolation.process import Process
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Launch
from tune_platform.protocol.milestones import halts
from tune_platform.protocol.reports import CheckpointRef, Report
from tune_platform.protocol.seeds import derive
from tune_platform.protocol.trial_log import folder_of
from tune_platform.ray_tune.session import adapted, catch_reports, release_reports
from tune_platform.resources import Resources
from tune_platform.store.checkpoints import CheckpointStorage, StorageAway
from tune_platform.trainable import (
    DONE,
    SHOULD_CHECKPOINT,
    FunctionTrainable,
    Trainable,
    TrialContext,
    make_trainable,
    plain_metrics,
)

logger = logging.getLogger(__name__)


def trial_folder(job: Job, trial: int) -> str:
    """Return the path of the trial's own folder, which is made when somebody needs it; empty where the job has none."""
    return folder_of(job.directory, trial)


class Executor:
    """Hosts the trials of one job, one at a time. All methods are called from one thread.

    `clean` turns False once something of an ended trial still runs: the process should then be replaced; `left` names
    it. `process` is this process's state, which executors that take turns share.

    With `on_written`, checkpoints are finished behind the training by a thread, which calls `on_written()` after each:
    where one could not be written its trial fails at the next step. Without it they are finished in the training's
    time, in a fixed order.
    """

    def __init__(
        self,
        job: Job,
        gang: GangKind = "threads",
        started: Gang | None = None,
        on_written: Callable[[], None] | None = None,
        process: Process | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.job = job
        self._memory = memory or (Memory(job.memory) if job.memory > 0 else None)
        self.clean = True
        self.left = ""
        self._process = process or Process()
        self._gang_kind = gang
        self._gang = started  # of the trials with several workers
        self._storage = CheckpointStorage(job.checkpoints, folder=job.folder) if job.checkpoints else None
        self._writer = Writer(on_written, self._memory)
        self._run: Run | None = None
        self._spare: Trainable | None = None  # of the trial before, ready for reset_config
        self._warm: dict[int, Run] = {}  # paused trials, oldest first

    def begin(self, launch: Launch, fetch: Fetch | None = None) -> Failure | None:
        """End the trial before and make this one ready to run; return the failure where that fails.

        `fetch` brings a copy of its checkpoint from another process's memory.
        """
        self.end()
        run = self._warm.pop(launch.trial, None)
        if run is not None and run.goes_on(launch):
            run.launch = launch
            run.seconds = launch.seconds
            self._run = run
            if run.state is not None:
                self._process.enter(run.state)
            return None
        if run is not None:
            self._finish(run)
        try:
            self._build(launch, fetch)
        except BaseException as error:
            if self.passes(error):
                raise
            self.end(reusable=False)
            self.clean = self.clean and (self._gang is None or not self._gang.broken)
            return _failure(error)
        return None

    def run(
        self, until: float | None, save: bool, put: Callable[[Report | None], None], back: Callable[[], bool]
    ) -> tuple[State, Failure | None]:
        """Run the trial to its milestone, its end, or until `back()` is true after a step; return how it stands.

        Each report is given to `put` as it comes, or None for one that is known already. Checkpoints are in `late`.
        """
        run = self._run
        if run is None:
            raise RuntimeError("run() needs a trial: call begin() first")
        state: State = "failed"
        failure: Failure | None = None
        try:
            state = self._loop(run, until, save, put, back)
            if state == "done":
                self._writer.flush(run.launch.trial)
                self._check_written(run)
        except BaseException as error:
            if self.passes(error):
                raise
            state, failure = "failed", _failure(error)
        if state == "done" or state == "failed":
            self._writer.flush(run.launch.trial)  # a trial that is tried again goes on from the last one
            self.end(reusable=failure is None)
        return state, failure

    def save(self) -> CheckpointRef | None:
        """Write a checkpoint of the trial as it is now, and wait for it; None where there is nothing (new) to save.

        A function's is that of its last report with one. Raises what the training code or the storage raises.
        """
        run = self._run
        if run is None:
            return None
        self._keep(run)
        self._writer.flush(run.launch.trial)
        self._check_written(run)
        return self._writer.take_newest(run.launch.trial, run.launch.attempt)

    def late(self) -> list[Written | InMemory]:
        """Return, once, the checkpoints that are finished, or in memory, of any trial.

        They may be older than what `save` has just returned: those of its trial belong before the answer to it. May be
        called from any thread, and after `close` as well.
        """
        return self._writer.take()

    @property
    def writing(self) -> bool:
        """Whether checkpoints are still to be finished."""
        return self._writer.pending > 0

    def is_writing(self, trial: int) -> bool:
        """Whether checkpoints of this trial are still to be finished."""
        return self._writer.is_writing(trial)

    def end(self, warm: bool = False, reusable: bool = True) -> None:
        """End the trial, if there is one; `warm` keeps it in memory, among `job.keep_warm` paused ones."""
        run, self._run = self._run, None
        if run is None:
            return
        if warm and self.job.keep_warm > 0:
            while len(self._warm) >= self.job.keep_warm:
                self._finish(self._warm.pop(next(iter(self._warm))))
            self._warm[run.launch.trial] = run
            run.state = self._process.leave()
        elif reusable and type(run.trainable).reset_config is not Trainable.reset_config:
            run.restored.close()
            self._drop_spare()
            self._spare = run.trainable
        else:
            self._finish(run)

    def close(self) -> None:
        """End everything that is held: the trial, paused ones, and the object kept for reuse."""
        self.end(reusable=False)
        self._drop_spare()
        while self._warm:
            self._finish(self._warm.popitem()[1])
        self._writer.close()
        release_reports()
        if self._gang is not None:
            self._gang.close()

    def passes(self, error: BaseException) -> bool:
        """Whether it ends the run, not the trial. In a worker process nobody does that."""
        return self._gang_kind != "ray" and ends_the_run(error)

    def holds_warm(self, trial: int) -> bool:
        """Whether the paused trial is in memory here."""
        return trial in self._warm

    # Begin and end.

    def _build(self, launch: Launch, fetch: Fetch | None) -> None:
        context = TrialContext(
            experiment=self.job.experiment, trial=launch.trial, attempt=launch.attempt,
            seed=derive(self.job.seed, "trial", launch.trial), resources=launch.resources.bundle(),
            folder=trial_folder(self.job, launch.trial), gang=self._gang_for(launch.resources),
            horizon=self.job.horizon,
        )  # fmt: skip
        config = dict(launch.config)
        found = resolve(self.job.trainable)  # first: what its import does to the process is no trial's doing
        self._process.begin(context.seed if launch.start == 0 else derive(context.seed, "from", launch.start))
        if self.job.own_folder:
            os.chdir(context.directory)
        trainable = self._reset(context, config)
        fresh = trainable is None
        if trainable is None:
            trainable = make_trainable(adapted(found), context)
            self._process.hold()
        run = self._run = Run(launch, trainable, launch.start, launch.seconds)
        trainable.config = config
        if isinstance(trainable, FunctionTrainable):
            trainable.copy = partial(self._copy, run)
            catch_reports()
        if fresh:
            trainable.setup(dict(config))
        if launch.checkpoint is not None:
            self._load(run, launch.checkpoint, self._copy_of(launch.checkpoint, fetch))

    def _gang_for(self, resources: Resources) -> Gang | None:
        """Return the gang of a trial with several workers: the one that there is, where it has that shape."""
        gang, bundle = self._gang, resources.bundle()
        if gang is not None and (gang.workers != resources.workers or gang.bundle != bundle):
            gang.close()
            self._gang = gang = None
        if gang is None and resources.workers > 1:
            gang = self._gang = Gang(self._gang_kind, resources.workers, bundle, self.job.log_limit)
        return gang

    def _reset(self, context: TrialContext, config: dict[str, Any]) -> Trainable | None:
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        before, spare.context = spare.context, context
        try:
            if spare.reset_config(dict(config)):
                return spare
        except Exception as error:
            logger.warning("reset_config failed; the trial starts with a new object\n%s", traceback_of(error))
        self._cleanup(spare, before.trial)
        return None

    def give(self, checkpoint: CheckpointRef) -> Copy | None:
        """Return the copy of a checkpoint that was written here, if it is still in memory. From any thread."""
        return self._memory.get(checkpoint) if self._memory is not None else None

    def _copy_of(self, checkpoint: CheckpointRef, fetch: Fetch | None) -> Copy | None:
        own = self.give(checkpoint)
        return own if own is not None or fetch is None else fetch()

    def _load(self, run: Run, checkpoint: CheckpointRef, copy: Copy | None) -> None:
        if self._storage is None:
            message = f"no checkpoint storage is set, so {checkpoint.uri} cannot be read"
            raise Failing(Failure("lost_checkpoint", message))
        self._writer.flush(checkpoint.trial)
        try:
            if isinstance(copy, StateCopy):
                run.trainable.set_state(copy.load())
            else:
                run.trainable.load_checkpoint(self._directory(run, checkpoint, copy))
        except (Failing, StorageAway):
            raise
        except NotImplementedError as error:
            raise Failing(Failure("exception", str(error), traceback_of(error), fatal=True)) from error
        except Exception as error:
            failure = failure_of(error)
            message = f"load_checkpoint could not read {checkpoint.uri}: {failure.message}"
            raise Failing(Failure("lost_checkpoint", message, failure.traceback)) from error
        if not isinstance(run.trainable, FunctionTrainable):
            run.restored.close()  # a function may read its directory at any time
        run.saved_step = run.step

    def _directory(self, run: Run, checkpoint: CheckpointRef, copy: FilesCopy | None) -> Path:
        """Return the files of a checkpoint: those of a copy, else of storage."""
        assert self._storage is not None
        try:
            if copy is None:
                return run.restored.enter_context(self._storage.restore(checkpoint))
            return run.restored.enter_context(copy.opened())
        except StorageAway:
            raise  # nothing is known of the checkpoint
        except (CheckpointError, OSError) as error:
            raise Failing(Failure("lost_checkpoint", str(error), traceback_of(error))) from error

    def _finish(self, run: Run) -> None:
        self._cleanup(run.trainable, run.launch.trial)
        self._discard(run)
        run.restored.close()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            self._cleanup(spare, spare.context.trial)

    def _cleanup(self, trainable: Trainable, trial: int) -> None:
        try:
            trainable.cleanup()
        except BaseException as error:
            if self.passes(error):
                raise
            if isinstance(error, TimeoutError):
                self.clean = False
                self.left = "the train function itself"
            logger.warning("cleanup of trial %d failed\n%s", trial, traceback_of(error))
        if threads := self._process.let_go(trial):
            self.clean = False
            self.left = f"the thread(s) {threads}"

    # The loop.

    def _loop(
        self,
        run: Run,
        until: float | None,
        save: bool,
        put: Callable[[Report | None], None],
        back: Callable[[], bool],
    ) -> State:
        if until is None or run.progress is None or run.progress < until:
            while True:
                state = self._step(run, until, put)
                every = self.job.checkpoint_every
                if (
                    (state == "waiting" and save)
                    or (state != "running" and self.job.checkpoint_at_end)  # at a milestone it may be told to end
                    or (every > 0 and run.step > 0 and run.step % every == 0)
                    or run.step in run.launch.again
                    or run.better
                    or run.draft is not None
                ):
                    self._keep(run)
                if state != "running":
                    return state
                if back():
                    return "running"
        if save:
            self._keep(run)
        return "waiting"

    def _step(self, run: Run, until: float | None, put: Callable[[Report | None], None]) -> State:
        self._check_written(run)
        run.better = False
        began = time.monotonic()
        returned = run.trainable.step()
        run.seconds += time.monotonic() - began
        if returned is None:
            run.check_reported(self.job)
            return "done"
        try:
            if not isinstance(returned, Mapping):
                raise TypeError(f"step() returns a dict of metrics, or None at the end; got {returned!r}")
            metrics = plain_metrics(returned)
        except TypeError as error:
            misreported(str(error))
        done = bool(metrics.pop(DONE, False))
        run.better = bool(metrics.pop(SHOULD_CHECKPOINT, False))
        if metrics or not done:  # {"done": True} alone is an end, not a report
            run.step += 1
            if self.job.timed:
                metrics.setdefault("time_total_s", run.seconds)
            report = Report(run.step, metrics, time.time())
            run.progress = progress_of(report, self.job.resource, run.progress)  # one that has none is no report
            put(report if run.step > run.launch.committed else None)
            run.judge(report, self.job)
            known = run.step < run.launch.committed
            if not done and (known or not halts(report, self.job.resource, until, self.job.stop, self.job.pruned)):
                return "running"
        run.check_reported(self.job, at=None if done else until)
        return "done" if done else "waiting"

    # Checkpoints.

    def _copy(self, run: Run, source: Path) -> None:
        """Copy what a function's report brought right to where it is kept."""
        self._discard(run)
        if self._storage is not None:
            self._writer.make_room()
            draft = self._storage.draft(run.launch.trial)
            draft.copy(source)
            run.draft = draft

    def _keep(self, run: Run) -> None:
        """Have a checkpoint of the trial as it is now finished, where there is something new."""
        if self._storage is None or run.saved_step == run.step:
            return
        draft, run.draft = run.draft, None
        state: StateCopy | None = None
        if draft is None and not isinstance(run.trainable, FunctionTrainable):
            self._writer.make_room()
            draft, state = drafted(self._storage.draft(run.launch.trial), run.trainable)
        if draft is not None:
            run.saved_step = run.step
            self._writer.submit(draft, run.step, run.launch.attempt, state)

    def _check_written(self, run: Run) -> None:
        self._writer.check(run.launch.trial, run.launch.attempt)

    def _discard(self, run: Run) -> None:
        draft, run.draft = run.draft, None
        if draft is not None:
            draft.discard()


def _failure(error: BaseException) -> Failure:
    return error.failure if isinstance(error, Failing) else failure_of(error)
