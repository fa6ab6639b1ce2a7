"""`run`, `resume` and `load`: from a spec to results. Here, and only here, the parts are put together."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_platform.callbacks import Callback, check_callbacks
from tune_platform.claim import Claim, claim
from tune_platform.continuation import check_same, check_secrets, extension
from tune_platform.engine.controller import Controller
from tune_platform.engine.feed import Feed
from tune_platform.engine.hooks import Hooks
from tune_platform.engine.log import DamageError
from tune_platform.engine.recovery import recover
from tune_platform.engine.runner import Listener, Runner
from tune_platform.engine.upgrade import upgrade_log
from tune_platform.engine_settings import settings_of
from tune_platform.errors import CheckpointError, ExperimentError, Interrupted
from tune_platform.location import Location, default_storage, private_folder
from tune_platform.progress.output import Output
from tune_platform.progress.shown import check_form, ending_signals, show_output, shown
from tune_platform.protocol.backend import Job
from tune_platform.protocol.commands import Finish
from tune_platform.protocol.reports import CheckpointRef
from tune_platform.protocol.text import plain
from tune_platform.resources import Resources
from tune_platform.store.checkpoints import CheckpointStorage, StorageAway
from tune_platform.store.janitor import Janitor
from tune_platform.store.reader import damage
from tune_platform.store.sql import SqlExperiment, open_store
from tune_platform.surroundings import put_folder_first
from tune_platform.tracking import make_trackers

_LOG = logging.getLogger("tune_platform")

#: Bytes of checkpoints that each process keeps in memory for clones, where the scheduler makes them.
_COPIES = 2**30

if TYPE_CHECKING:
    from tune_platform.results import Results
    from tune_platform.spec import SearchSpec


def run(
    spec: SearchSpec,
    *,
    name: str | None = None,
    if_exists: str | None = None,
    callbacks: Sequence[Callback] = (),
    listeners: Sequence[Listener] = (),
    progress: str | None = None,
) -> Results:
    """Run a search to its end and return the results.

    `progress` is how it is shown meanwhile, on stderr or in the notebook's cell: "live" is redrawn in place, "plain"
    are lines, "json" lines for programs, "off" is nothing; "auto" is live on a terminal and in a notebook, else lines
    that begin after 5 seconds and become ever rarer. None takes the spec's own, "auto" unless it says otherwise.

    Ctrl-C, SIGTERM or SIGHUP once ends it gracefully: running trials write a checkpoint, and `resume` goes on from
    there; a second time ends it at once, which loses at most the steps since each trial's last checkpoint.

    `if_exists` says what becomes of an experiment that has the name already (None: what the spec says): "error",
    "resume" goes on with it, "new" starts one of the name with -2, -3 ... after it, "replace" deletes it and starts.
    One whose start had failed, without a single trial, is in nobody's way.

    `callbacks` hear how it goes, after those of the spec: see `Callback`.

    Raises SpecError before anything starts where the spec cannot work, NameTakenError where an experiment of that name
    exists already, and ExperimentError where one is to go on that was started with another spec, or that is being run.
    """
    check_form(progress or spec.progress)
    callbacks = check_callbacks(callbacks)
    warnings = spec.check()
    with claim(spec, name=name, if_exists=if_exists) as claimed:
        return drive(claimed, spec, listeners, callbacks=callbacks, progress=progress, warnings=warnings)


def drive(
    claimed: Claim,
    spec: SearchSpec,
    listeners: Sequence[Listener] = (),
    *,
    callbacks: Sequence[Callback] = (),
    progress: str | None = None,
    warnings: Sequence[str] = (),
) -> Results:
    """Run the experiment that `claim` gave for this spec to its end, after these warnings. Raises what `run` raises."""
    experiment = claimed.experiment
    begin: Callable[[Runner], None] = Runner.start
    if claimed.fresh:
        spec = spec.with_warm_start(experiment.spec)
    else:
        spec = spec.as_begun(experiment.spec)
        begin = _going_on(spec, experiment, choices=check_same(spec, experiment))
    opening = f"{experiment.name}: {'results go to' if claimed.fresh else 'going on in'} {spec.storage}"
    opening = "; ".join([opening, *spec.chosen(), *spec.warmth()])
    with shown(experiment.name, progress or spec.progress, opening=opening) as display:
        for warning in warnings:
            display.say(f"warning: {warning}")
        finish = _drive(spec, experiment, [*display.listeners, *listeners], begin, callbacks)
        display.end(finish)
    return _results(experiment.name, Location(spec.storage), finish, spec.trainable)


def resume(
    name: str,
    *,
    storage: str | Path | None = None,
    spec: SearchSpec | None = None,
    callbacks: Sequence[Callback] = (),
    listeners: Sequence[Listener] = (),
    retry_failed: bool = False,
    extend: Mapping[str, Any] | None = None,
    progress: str | None = None,
    log_to_driver: bool | None = None,
) -> Results:
    """Go on with an experiment that was interrupted, killed or finished, as if nothing had happened.

    `spec` is needed only where the original had live objects of Python, and where choices of its space have got more
    values at the end of their lists, which are tried from now on; else it must be the same one. Callbacks are not
    kept with the experiment: those of `spec` and `callbacks` are called, with what is new. `extend` adds
    `{"trials": n, "time": seconds, "gpu_hours": h, "cost": c}` to the budgets, or sets another `deadline`.
    `progress` is as in `run`; `log_to_driver` takes the place
    of the spec's. Raises ExperimentError where another driver still runs it, and where the spec differs from the one
    that it was started with.
    """
    from tune_platform.spec import SearchSpec

    check_form(progress or "auto")
    callbacks = check_callbacks(callbacks)
    location = Location(storage or (spec.storage if spec else default_storage()))
    with open_store(location) as store:
        experiment = store.open(name)
        with contextlib.closing(experiment):
            if not experiment.spec:
                raise ExperimentError(damage(experiment.name, "its spec cannot be read"))
            choices: Mapping[str, Sequence[Any]] = {}
            if source := experiment.spec.get("imported"):
                raise ExperimentError(
                    f"experiment {experiment.name!r} was recorded of {source}: there is nothing here to go on with"
                )
            if spec is None:
                spec = SearchSpec.from_dict(dict(experiment.spec)).model_copy(update={"storage": location})
                check_secrets(spec, name)
            else:
                spec = spec.as_begun(experiment.spec)
                choices = check_same(spec, experiment)
            if log_to_driver is not None:
                spec = spec.model_copy(update={"log_to_driver": log_to_driver})
            if more := extension(extend or {}):
                experiment.request("extend", None, more, time.time())
            begin = _going_on(spec, experiment, retry_failed=retry_failed, choices=choices)
            with shown(experiment.name, progress or spec.progress, opening=f"{experiment.name}: going on") as display:
                finish = _drive(spec, experiment, [*display.listeners, *listeners], begin, callbacks)
                display.end(finish)
            return _results(experiment.name, location, finish, spec.trainable)


def load(name: str, *, storage: str | Path | None = None) -> Results:
    """Return the results of an experiment, finished, crashed or still running. Raises ExperimentError if unknown."""
    return _results(name, Location(storage or default_storage()), None)


def check_up(name: str, *, storage: str | Path | None = None) -> list[str]:
    """Return what is wrong with an experiment, its rows and its checkpoints, one line each; nothing where it is whole.

    Raises ExperimentError where there is no such experiment.
    """
    from tune_platform.engine.checkup import check_up
    from tune_platform.registry import make_scheduler

    with open_store(Location(storage or default_storage())) as store, store.open(name, readonly=True) as experiment:
        found = check_up(experiment, make_scheduler("fifo"))
    return found + _results(name, Location(storage or default_storage()), None).lost_checkpoints()


# ------------------------------------------------------------------------------------------ inside


def _results(name: str, storage: Location, finish: Finish | None, trainable: Any = None) -> Results:
    from tune_platform.results import Results

    return Results(name, storage=storage, finish=finish, trainable=trainable)


def _going_on(
    spec: SearchSpec,
    experiment: SqlExperiment,
    *,
    retry_failed: bool = False,
    choices: Mapping[str, Sequence[Any]],
) -> Callable[[Runner], None]:
    left = experiment.row()

    def begin(runner: Runner) -> None:
        try:
            upgrade_log(experiment, spec.resources_for, left.status, left.reason)
            recover(runner, retry_failed=retry_failed, choices=choices)
        except DamageError as error:
            raise ExperimentError(damage(experiment.name, str(error))) from error
        if choices:  # written with the fact that somebody has gone on with them
            experiment.amend({**experiment.spec, "space": spec.to_dict()["space"]})

    return begin


def _drive(
    spec: SearchSpec,
    experiment: SqlExperiment,
    listeners: Sequence[Listener],
    begin: Callable[[Runner], None],
    callbacks: Sequence[Callback],
) -> Finish:
    """Hold the experiment's lease, run the loop, and leave a true status behind however it ends."""
    experiment.acquire(patience=spec.store_patience)
    trackers = make_trackers(spec.track, f"{_home(spec, experiment.name)}/tracking")
    hooks = Hooks([*spec.callbacks, *callbacks, *trackers], _folder(spec, experiment.name))
    runner: Runner | None = None
    try:
        with contextlib.ExitStack() as stack:
            heed = stack.enter_context(_signals())  # first: importing Ray takes seconds
            runner = stack.enter_context(_assemble(spec, experiment, [*listeners, hooks]))
            heed(runner)
            if spec.log_to_driver and runner.backend.parallel:  # else it is printed here anyway
                runner.listen(stack.enter_context(Output(runner.job.directory, show_output)))
            begin(runner)
            hooks.begin(runner.view)
            finish = runner.run()
        _tidy(spec, experiment)
    except BaseException as error:
        finish = Finish(status="interrupted", reason="the driver was interrupted; resume goes on from here")
        if isinstance(error, Exception):
            if runner is not None and runner.seq:
                _mark_midway(error)
            finish = Finish(status="failed", reason=plain(f"the driver failed: {type(error).__name__}: {error}"))
        try:
            experiment.set_status(finish.status, finish.reason, time.time())
        except ExperimentError as second:  # a store that is away, perhaps: not what the caller has to know first
            _LOG.warning("the status of %r could not be written: %s", experiment.name, second)
        hooks.finish(finish)
        raise
    experiment.set_status(finish.status, finish.reason, time.time())
    hooks.finish(finish)
    return finish


def _mark_midway(error: Exception) -> None:
    with contextlib.suppress(AttributeError):  # not every exception takes attributes
        error.midway = True  # type: ignore[attr-defined]


@contextlib.contextmanager
def _assemble(spec: SearchSpec, experiment: SqlExperiment, listeners: Sequence[Listener]) -> Iterator[Runner]:
    """Build the parts from the spec, and close them in the end."""
    if isinstance(spec.trainable, str):
        put_folder_first()
    home = _home(spec, experiment.name)
    storage = _checkpoint_storage(spec, experiment.name)
    scheduler = spec.make_scheduler()
    searcher = spec.make_searcher()
    backend = spec.make_backend()
    if not backend.virtual:
        _make_folders(home, "" if "://" in storage.root or not spec.checkpoint.storage else storage.root)
    settings = settings_of(spec, searcher.lookahead, backend, follow=getattr(searcher, "follows", False))
    controller = Controller(settings, scheduler)
    feed = Feed(
        searcher,
        spec.space,
        modes=spec.modes,
        seed=spec.seed,
        start_points=spec.start_points or getattr(scheduler, "start_points", ()),
        resources=None if isinstance(spec.resources, Resources) else spec.resources_for,
        # Where time is real, a slow searcher works beside the loop; elsewhere the run stays a function of its seed.
        threaded=backend.parallel and not searcher.synchronous,
        clock=backend.now,
        wake=backend.wake,
    )
    job = Job(
        experiment=experiment.name,
        trainable=spec.trainable,
        metrics=spec.metrics,
        resource=scheduler.resource,
        max=_latest(scheduler),
        on_bad_metric=spec.on_bad_metric,
        step_timeout=math.inf if spec.step_timeout is None else spec.step_timeout,
        stop=spec.stop,
        checkpoint_every=spec.checkpoint.every,
        checkpoint_best=spec.modes[0] if spec.checkpoint.keep_best and not spec.checkpoint.every else "",
        checkpoint_at_end=spec.checkpoint.at_end,
        checkpoints=storage.root,
        folder=_folder(spec, experiment.name),
        directory=f"{home}/trials",
        seed=spec.seed,
        keep_warm=spec.keep_warm,
        own_folder=spec.own_folder,
        log_limit=spec.log_limit,
        memory=_COPIES if getattr(scheduler, "needs_checkpoints", False) else 0,
        reuse_workers=spec.reuse_workers,
        resources=spec.resources if isinstance(spec.resources, Resources) else None,
        max_concurrent=min(settings.max_concurrent, settings.num_samples),
    )
    janitor = Janitor(storage)

    def complete(config: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        from tune_platform.protocol.seeds import rng

        return spec.space.complete(config, rng(spec.seed, number, "start"))

    runner = Runner(
        controller=controller,
        feed=feed,
        backend=backend,
        log=experiment,
        job=job,
        complete=complete,
        drop=_keep_all if backend.virtual else janitor.drop,
        listeners=listeners,
        grace=spec.grace,
    )
    try:
        yield runner
    finally:
        backend.close()
        feed.close()
        janitor.close(spec.grace)


def _keep_all(refs: Sequence[CheckpointRef]) -> None:
    """Delete nothing: on a virtual clock checkpoints are names alone."""


def _tidy(spec: SearchSpec, experiment: SqlExperiment) -> None:
    """Delete the checkpoints that the log does not have: whoever wrote them, or was to delete them, was killed."""
    storage = _checkpoint_storage(spec, experiment.name)
    try:
        storage.collect_garbage({row.uri for row in experiment.checkpoints()})
    except StorageAway as error:  # they only take room
        _LOG.warning("checkpoints that nobody needs could not be deleted: %s", error)
    except CheckpointError:
        pass  # simulated ones; or an older log, which was moved and has absolute URIs: all would look unneeded
    except Exception:
        _LOG.warning("checkpoints that nobody needs could not be deleted from %s", storage.root, exc_info=True)


def _home(spec: SearchSpec, name: str) -> str:
    """Return the experiment's own folder: inside the storage directory, or beside the driver for a database URL."""
    base = "tune_results" if Location(spec.storage).is_url else spec.storage
    return str((Path(base).expanduser() / name).resolve())


def _make_folders(*folders: str) -> None:
    """Make what does not exist of these folders for its owner alone, before workers make it with the umask's rights."""
    for folder in map(Path, filter(None, folders)):
        try:
            private_folder(folder.parent, folder.name)
        except OSError as error:
            raise ExperimentError(f"{folder} cannot be made: {error.strerror or error}") from error


def _latest(scheduler: Any) -> float:
    """Return the amount of its resource at which a scheduler ends a trial at the latest; infinite if it says none."""
    latest = getattr(scheduler, "max", None)
    return float(latest) if isinstance(latest, int | float) else math.inf


def _folder(spec: SearchSpec, name: str) -> str:
    """Return the experiment's own folder where its log lies in it, so that both are moved together; else nothing."""
    return "" if Location(spec.storage).is_url else _home(spec, name)


def _checkpoint_storage(spec: SearchSpec, name: str) -> CheckpointStorage:
    """Return the storage of the experiment's checkpoints; each experiment has its own, wherever they lie."""
    given = spec.checkpoint.storage
    root = f"{given.rstrip('/')}/{name}" if given else f"{_home(spec, name)}/checkpoints"
    return CheckpointStorage(root, folder=_folder(spec, name))


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[Runner], None]]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a graceful end of the runner given, the second into one at once.

    Until a runner is given, and while its backend starts, the first ends at once: there is nothing yet to wait for.
    """
    runners: list[Runner] = []
    if threading.current_thread() is not threading.main_thread():
        yield runners.append
        return
    seen = 0

    def handle(number: int, frame: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > 1 or not runners or runners[0].starting:
            raise Interrupted
        runners[0].interrupt()

    old = {number: signal.signal(number, handle) for number in ending_signals()}
    try:
        yield runners.append
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
