"""Which experiment a run is to write: a new one of a free name, or one that is there, by `if_exists`."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from tune_platform.errors import ExperimentError, NameTakenError, SpecError, did_you_mean
from tune_platform.store.removal import remove, sweep
from tune_platform.store.sql import SqlExperiment, SqlStore, open_store
from tune_platform.warm_start import form_with_warm_start

if TYPE_CHECKING:
    from tune_platform.spec import SearchSpec

#: What becomes of an experiment of the same name.
IF_EXISTS = ("error", "resume", "new", "replace")
_LONGEST = 100  # letters of a name


class Claim(NamedTuple):
    """An experiment to be written; `fresh`: there is nothing in it yet."""

    experiment: SqlExperiment
    fresh: bool


@contextlib.contextmanager
def claim(
    spec: SearchSpec, *, name: str | None = None, if_exists: str | None = None, stem: str = ""
) -> Iterator[Claim]:
    """Make the experiment of a spec, or open the one that goes on, for as long as the context lasts.

    Without a name, neither here nor in the spec, it is made up from `stem` (that of the trainable, if empty) and the
    time, and is nobody else's. One of this name that never began a trial and that nobody drives is in nobody's way.
    Raises NameTakenError where another has the name, ExperimentError where one is to be replaced that is being run.
    """
    choice = if_exists or spec.if_exists
    if choice not in IF_EXISTS:
        raise SpecError(
            f"if_exists: got {choice!r}; allowed: {', '.join(IF_EXISTS)}{did_you_mean(str(choice), IF_EXISTS)}"
        )
    given = name or spec.name
    with open_store(spec.storage) as store:
        sweep(store)
        if given:
            found = _named(store, spec, given, choice)
        else:
            found = Claim(_numbered(store, spec, made_up_name(spec, stem), first=1), fresh=True)
        with contextlib.closing(found.experiment):
            yield found


def free_name(store: SqlStore, name: str) -> str:
    """Return the name that `if_exists="new"` would give: the first of name-2, name-3 ... that is free."""
    taken = set(store.names())
    return next(each for each in _candidates(name, first=2) if each not in taken)


def _named(store: SqlStore, spec: SearchSpec, name: str, choice: str) -> Claim:
    for _ in range(3):  # somebody else may take the name at this very moment
        try:
            return Claim(store.create(name, form_with_warm_start(spec, store), created=time.time()), fresh=True)
        except NameTakenError:
            if store.is_idle_start(name) or choice == "replace":
                remove(store, name)
            elif choice == "new":
                return Claim(_numbered(store, spec, name, first=2), fresh=True)
            elif choice == "resume":
                return Claim(store.open(name, exact=True), fresh=False)
            else:
                raise _taken(store, spec, name) from None
    raise ExperimentError(f"experiment {name!r} is being made by somebody else in {store.location} again and again")


def _taken(store: SqlStore, spec: SearchSpec, name: str) -> NameTakenError:
    row = store.row(name)
    state = f"{row.status}: {row.reason}" if row.reason else row.status
    own = "" if name == spec.name else f", name={name!r}"
    free = free_name(store, name)
    return NameTakenError(
        f"experiment {name!r} exists already in {store.location} ({state}). Say what is to be done:\n"
        f'  run(spec{own}, if_exists="resume")   # go on with it\n'
        f'  run(spec{own}, if_exists="new")      # start another one, {free!r}\n'
        f'  run(spec{own}, if_exists="replace")  # delete it with all that it found, and start',
        name,
        state,
        free,
    )


def _numbered(store: SqlStore, spec: SearchSpec, name: str, first: int) -> SqlExperiment:
    """Make an experiment of the first free name: of several who try, in whatever process, each gets one."""
    taken = set(store.names())
    for each in _candidates(name, first):
        if each not in taken:
            with contextlib.suppress(NameTakenError):
                return store.create(each, spec.to_dict(), created=time.time())
    raise AssertionError("unreachable: the candidates have no end")


def _candidates(name: str, first: int) -> Iterator[str]:
    for number in itertools.count(first):
        end = f"-{number}" if number > 1 else ""
        yield name[: _LONGEST - len(end)] + end


def made_up_name(spec: SearchSpec, stem: str = "") -> str:
    """Return a name of `stem`, else of the trainable, and the time, in the letters that a name may have."""
    trainable = spec.trainable
    if not stem:
        whole = trainable.rpartition(":")[2] if isinstance(trainable, str) else getattr(trainable, "__name__", "")
        stem = whole.lower()
    # A lambda is called <lambda>, and a name may be in any script.
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:60]
    return f"{word or 'search'}-{time.strftime('%Y%m%d-%H%M%S')}"
