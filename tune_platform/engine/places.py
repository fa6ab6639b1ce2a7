"""What the free places call for: who comes back to one, how many suggestions to ask for, who fits into none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from tune_platform.engine.state import State
from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.resources import Resources

#: Seconds within which two times are the same: sums of times are not exact.
INSTANT = 1e-6
#: Suggestions that are kept ready at most.
_MANY = 10_000
#: Trials that places are asked for at most: whoever is asked has to fit them into nodes, again and again.
_WANTED = 1000


def returning(state: State) -> int | None:
    """Return a trial that had a place already when the driver was lost, and fits: what it had is not given away."""
    for number in state.returning:
        if number not in state.awaiting and state.ledger.fits(state.trials[number].resources):
            return number
    return None


def wanted(state: State) -> Sequence[int]:
    """Return the numbers of the trials that the searcher is to be asked for now."""
    supply = state.supply
    if supply.exhausted or supply.next_number >= supply.limit or not state.ledger.capacity:
        return ()
    ledger, queue, room = state.ledger, state.queue, state.settings.max_concurrent
    ordinary = supply.ordinary if ledger.possible(supply.ordinary) else state.settings.resources
    slots = int(min(ledger.slots(ordinary), room, _MANY))
    free = 0
    if not queue.reserved and ledger.leases() < room and ledger.fits(ordinary):
        free = max(1, int(min(ledger.slots(ordinary, free=True), room - ledger.leases(), _MANY)))
    elif not state.placed and not queue.size:
        free = 1  # nothing is known to fit, and something has to be tried
    unfit, misfits = (queue.unfit(), len(queue.misfits())) if free else (0, 0)
    return supply.wanted(free=free, slots=slots, waiting=queue.size, unfit=unfit, misfits=misfits)


def demand(state: State) -> list[tuple[Resources, int]]:
    """Return for how many trials of which kind places are wanted: those that run, that wait, and that are to come.

    No more than may run at a time, nor a thousand; nothing once no trial is launched any more but those that run.
    """
    left = min(state.settings.max_concurrent, _WANTED)
    running = Counter(state.trials[number].resources for number in state.placed)
    wanted = list(running.items())
    if state.launches:
        wanted += state.queue.shapes()
        if not state.supply.exhausted:
            coming = state.supply.limit - state.supply.next_number + len(state.supply.asked)
            wanted.append((state.supply.ordinary, int(min(coming, _WANTED))))
    found: Counter[Resources] = Counter()
    for resources, count in wanted:
        taken = int(min(count, left))
        found[resources] += taken
        left -= taken
    return [(resources, count) for resources, count in found.items() if count]


def misfits_due(state: State) -> float:
    """Return the elapsed seconds at which trials fail that fit into no node, if the cluster stays the same until then.

    What has fitted before waits longer, for the nodes that were lost may come back; and so does everything while others
    have some of the nodes. inf: none does.
    """
    queue, since, due = state.queue, state.stable_since, math.inf
    if state.ledger.is_empty or not state.launches:
        return due
    if queue.has_misfits:
        due = since + (_patience(state) if state.shared else state.settings.misfit_after)
    if queue.has_lost:
        due = min(due, since + _patience(state))
    return due


def misfits(state: State) -> list[tuple[Trial, str]]:
    """Return the trials that fail now since not even the idle cluster could hold them, each with the reason."""
    if state.elapsed + INSTANT < misfits_due(state):
        return []
    waited = state.elapsed + INSTANT - state.stable_since
    nodes = "; ".join(", ".join(f"{v:g} {k}" for k, v in node.items()) or "nothing" for node in state.ledger.capacity)
    found = []
    for trial in state.queue.misfits():
        said = f"resources: the trial needs {trial.resources}, but the nodes have only: {nodes}"
        if not state.queue.lost(trial) and not state.shared:
            found.append((trial, said))
        elif waited >= _patience(state):
            why = "others have the rest" if state.shared else "a node that could hold it was lost, and none is back"
            found.append((trial, f"{said}; {why} (node_patience)"))
    return found


def _patience(state: State) -> float:
    return max(state.settings.misfit_after, state.settings.node_patience)


def lost_nodes(state: State) -> str:
    """Say who waits for a node such as were lost, and for how long; empty where nobody does."""
    queue = state.queue
    lost = [trial for trial in queue.misfits() if queue.lost(trial)] if queue.has_lost and not state.shared else []
    if not lost:
        return ""
    who = f"trial {lost[0].number} waits" if len(lost) == 1 else f"{len(lost)} trials wait"
    said = f"{who} for nodes such as were lost: {lost[0].resources}"
    if state.ledger.is_empty:
        return f"{said}; no node is left"
    return f"{said}; unless some come back, that fails in {_patience(state):g} s (node_patience)"


def left_over(state: State) -> str:
    """Say how many trials there are that go on only if a person extends a search whose budget is used up."""
    left = state.counts[TrialStatus.PENDING] + state.queue.paused_size
    if not left or state.ending is None or state.ending.status != "finished":
        return ""
    return f"; {left} {'trial waits' if left == 1 else 'trials wait'}, and would go on if it were extended"


def stalling(state: State) -> str:
    """Say of the scheduler why nothing can go on any more."""
    return (
        f"lets none of {state.queue.size + state.queue.paused_size} trials go on although nothing runs and there are "
        "places: choose() returned None, and nothing will happen of itself that could change that"
    )
