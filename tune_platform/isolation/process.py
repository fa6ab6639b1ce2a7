"""The process that one trial after the other has: put back to its first state before each of them.

What is put back is what training code changes in passing and the next trial would compute with: the working folder, the
environment, the import path, warning filters, loggers, the signal mask, settings of numpy and torch, and the state of
the generators that all code shares, which are seeded. Libraries are not imported for that: one that a trial is the
first to import is noticed, seeded, and its settings are those that it comes with.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from operator import attrgetter
from types import ModuleType
from typing import Any

from tune_platform.isolation import libraries
from tune_platform.isolation.leftovers import Leftovers

logger = logging.getLogger(__name__)

_UNTOUCHED: tuple[Any, ...] = (logging.NOTSET, [], [], True, False)
_of_logger = attrgetter("level", "handlers", "filters", "propagate", "disabled")
#: What a driver sets for itself, and a trial in the same thread must not keep.
_OF_THE_DRIVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class State:
    """What a process was like at some moment. `draws` are the states of the generators, by library, where wanted."""

    folder: str
    variables: dict[Any, Any]
    path: list[str]
    filters: list[Any]
    mask: set[Any]
    silenced: int  # logging.disable
    loggers: list[logging.Logger]
    logging: list[tuple[Any, ...]]  # of each of them
    settings: dict[str, list[Any]]
    draws: dict[str, Any] = field(default_factory=dict)


class Process:
    """The state of this process, as the trials in it find it. All methods are called from the thread that trains.

    `alone`: nothing but trials runs here; see `Leftovers`.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._first: State | None = None
        self._modules: frozenset[str] = frozenset()  # that were loaded then
        self._seed = 0
        self._there: Sequence[object] = []  # the loggers, and what stands for them, at the last look
        self._finder = _Finder(self._arrived)
        self._owner: object = None
        self._left: dict[object, State] = {}
        self._folders: dict[object, str] = {}
        self._held = 0
        self._leftovers = Leftovers(alone=alone)

    def begin(self, seed: int) -> None:
        """Put the process back to its first state, that of the first call, and seed what all code draws from."""
        self._seed = seed
        if self._first is None:
            self._first = _take(draws=True)
            self._modules = frozenset(sys.modules)
            self._leftovers.begin()
            sys.meta_path.insert(0, self._finder)
        else:
            self._know_new_loggers(self._first)
            _put(self._first)
        libraries.seed("random", seed)
        for name in libraries.NAMES:
            if name in sys.modules:
                libraries.seed(name, seed)

    def leave(self) -> State:
        """Return how the trial leaves the process, which `enter` brings back."""
        return _take(draws=True)

    def enter(self, state: State) -> None:
        """Bring back what a trial had left."""
        _put(state)

    @contextmanager
    def inside(self, owner: object) -> Iterator[None]:
        """Run code of one of several trials that take turns. Between the turns the folder is the driver's."""
        if self._owner is not owner:
            if self._owner is not None:
                self._left[self._owner] = _take(draws=True)
            self._owner = owner
            if (state := self._left.pop(owner, None)) is not None:
                _put(state)
        main = threading.current_thread() is threading.main_thread()
        handlers = {number: signal.getsignal(number) for number in _OF_THE_DRIVER} if main else {}
        home = _folder()
        _change_folder(self._folders.pop(owner, home))
        try:
            yield
        finally:
            if (folder := _folder()) != home:
                self._folders[owner] = folder
                _change_folder(home)
            for number, handler in handlers.items():
                if signal.getsignal(number) is not handler and handler is not None:
                    signal.signal(number, handler)

    def forget(self, owner: object) -> None:
        """Note that a trial that took turns is over."""
        if self._owner is owner:
            self._owner = None
        self._left.pop(owner, None)
        self._folders.pop(owner, None)

    def hold(self) -> None:
        """Note that there is one more trial whose code may go on: one that runs, is paused here, or is used again."""
        self._held += 1

    def let_go(self, trial: int) -> str:
        """Note the end of a trial; with the last one what they left behind is ended. Returns what could not be."""
        self._held -= 1
        return self._leftovers.end(trial) if self._held == 0 else ""

    def close(self) -> None:
        """Leave the process as it was before the first trial. Safe to call twice."""
        first, self._first = self._first, None
        if first is not None:
            with suppress(ValueError):
                sys.meta_path.remove(self._finder)
            self._know_new_loggers(first)
            _put(first)
        self._owner = None
        self._left.clear()
        self._folders.clear()

    def _arrived(self, name: str) -> None:
        """Take in a library that has just been imported."""
        if self._first is not None:
            self._first.settings[name] = libraries.settings(name)
            libraries.seed(name, self._seed)

    def _know_new_loggers(self, first: State) -> None:
        """Add the loggers that came since; of modules that came as well, what their import gave them belongs to it."""
        loggers = logging.root.manager.loggerDict
        if (there := list(loggers.values())) == self._there:
            return
        self._there = there
        known = set(first.loggers)
        for name, one in list(loggers.items()):
            if isinstance(one, logging.Logger) and one not in known:
                top = name.partition(".")[0]
                imported = top in sys.modules and top not in self._modules
                first.loggers.append(one)
                first.logging.append(_copied(_of_logger(one)) if imported else _UNTOUCHED)


def _take(*, draws: bool) -> State:
    made = logging.root.manager.loggerDict.values()  # others among them only stand for the parents of some
    loggers = [logging.root, *(one for one in made if isinstance(one, logging.Logger))]
    names = [name for name in libraries.NAMES if name in sys.modules]
    return State(
        folder=_folder(),
        variables=dict(_variables()),
        path=list(sys.path),
        filters=list(warnings.filters),
        mask=signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        silenced=logging.root.manager.disable,
        loggers=loggers,
        logging=[_copied(_of_logger(one)) for one in loggers],
        settings={name: libraries.settings(name) for name in names},
        draws={name: libraries.draws(name) for name in ("random", *names)} if draws else {},
    )


def _put(state: State) -> None:
    _change_folder(state.folder)
    if _variables() != state.variables:
        _put_variables(state.variables)
    if sys.path != state.path:
        sys.path[:] = state.path
    if warnings.filters != state.filters:
        warnings.resetwarnings()  # has every module look at its warnings again
        warnings.filters += state.filters  # type: ignore[operator]
    signal.pthread_sigmask(signal.SIG_SETMASK, state.mask)
    if logging.root.manager.disable != state.silenced:
        logging.disable(state.silenced)
    if list(map(_of_logger, state.loggers)) != state.logging:
        for one, before in zip(state.loggers, state.logging, strict=True):
            _put_logger(one, before)
    for name, settings in state.settings.items():
        libraries.put_settings(name, settings)
    for name, draws in state.draws.items():
        libraries.put_draws(name, draws)


def _copied(values: tuple[Any, ...]) -> tuple[Any, ...]:
    level, handlers, filters, propagate, disabled = values
    return level, list(handlers), list(filters), propagate, disabled


def _put_logger(one: logging.Logger, before: tuple[Any, ...]) -> None:
    if _of_logger(one) != before:
        level, handlers, filters, one.propagate, one.disabled = before
        one.setLevel(level)
        one.handlers[:], one.filters[:] = handlers, filters


def _variables() -> dict[Any, Any]:
    # The dictionary inside: to copy or compare the outer mapping takes a hundred times as long.
    return os.environ._data  # type: ignore[attr-defined, no-any-return]


def _put_variables(before: Mapping[Any, Any]) -> None:
    now = dict(os.environ)
    wanted = {os.fsdecode(name): os.fsdecode(value) for name, value in before.items()}
    for name in now.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if now.get(name) != value:
            os.environ[name] = value


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 (a path object takes ten times as long)
    except OSError:  # it has been deleted
        return ""


def _change_folder(folder: str) -> None:
    if folder and folder != _folder():
        try:
            os.chdir(folder)
        except OSError as error:
            logger.warning("the working folder %s is gone (%s); trials go on in %s", folder, error, _folder() or "none")


class _Finder(MetaPathFinder):
    """Stands first among the finders, finds nothing by itself, and tells when a library has been imported."""

    def __init__(self, arrived: Callable[[str], None]) -> None:
        self._arrived = arrived

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in libraries.NAMES:
            return None
        for finder in sys.meta_path:
            spec = None if isinstance(finder, _Finder) else finder.find_spec(fullname, path, target)
            if spec is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: ModuleSpec) -> None:
        loader: Any = spec.loader
        if not hasattr(loader, "exec_module"):
            return
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            self._arrived(spec.name)

        with suppress(AttributeError):  # a loader that is closed
            loader.exec_module = exec_module
