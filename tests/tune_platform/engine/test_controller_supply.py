"""Who gets a place and when the searcher is asked: facts in, launches and asks out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.tune_platform.engine.play import Play, only
from tune_platform.engine.controller import PATIENCE
from tune_platform.engine.places import lost_nodes
from tune_platform.engine.queue import Queue
from tune_platform.engine.supply import LARGE, UNFIT
from tune_platform.engine.trial import Trial, TrialStatus
from tune_platform.errors import SchedulerError
from tune_platform.protocol.commands import Ask, Finish, Launch, Tell
from tune_platform.protocol.effects import Asked, SupplyEnded
from tune_platform.protocol.events import CapacityChanged, Exhausted, Resumed, Suggested, Ticked
from tune_platform.resources import Ledger, Resources
from tune_platform.schedulers import FIFO


def place_of(play: Play) -> set[int]:
    return set(play.state.placed)


def end(play: Play, number: int) -> list[Any]:
    """The trial comes to its own end."""
    return play.report(number, 1.0, done=True)


def test_a_searcher_that_does_not_learn_is_asked_for_as_many_as_can_run() -> None:
    play = Play(nodes=({"cpu": 3.0},))
    assert play.asked == [0, 1, 2]
    commands = play.suggest(0)
    assert [type(command) for command in commands] == [Launch, Ask]
    assert play.asked == [1, 2, 3]
    assert Play(nodes=({"cpu": 9.0},), num_samples=2).asked == [0, 1]
    assert Play(nodes=({"cpu": 9.0},), max_concurrent=4).asked == [0, 1, 2, 3]


def test_a_searcher_that_learns_is_asked_once_there_is_a_place_and_all_is_told() -> None:
    """With one place: suggestion n + 1 is asked for only after trial n was told, and in that very turn."""
    play = Play(nodes=({"cpu": 1.0},), lookahead=0, num_samples=3)
    assert play.asked == [0]
    for number in range(3):
        assert only(play.suggest(number), Ask) == []
        assert only(play.report(number, 2.0), Ask) == []
        commands = end(play, number)
        told = [type(command) for command in commands if isinstance(command, (Tell, Ask))]
        assert told == ([Tell, Ask] if number < 2 else [Tell])
    assert play.finished()


def test_no_more_are_asked_for_than_may_run() -> None:
    play = Play(nodes=({"cpu": 8.0},), lookahead=0, max_concurrent=2, num_samples=math.inf)
    assert play.asked == [0, 1]
    play.suggest(0)
    play.suggest(1)
    assert play.asked == []
    assert only(end(play, 0), Ask) == [Ask(trial=2)]


def test_a_searcher_that_learns_is_asked_for_each_free_place() -> None:
    play = Play(nodes=({"cpu": 3.0},), lookahead=0)
    assert play.asked == [0, 1, 2]
    for number in range(3):
        assert only(play.suggest(number), Ask) == []
    assert only(end(play, 1), Ask) == [Ask(trial=3)]


@pytest.mark.parametrize(
    ("lookahead", "prefetch", "asked"),
    [(0, None, 2), (3, None, 5), (None, None, 2), (0, 2, 4), (3, 0, 2), (None, 0, 2), (None, 4, 6)],
)
def test_how_many_are_drawn_ahead(lookahead: int | None, prefetch: int | None, asked: int) -> None:
    """The spec's word counts more than the searcher's, and 0 means 0: only what there are places for."""
    play = Play(lookahead=lookahead, prefetch=prefetch, num_samples=100)
    assert len(play.asked) == asked
    play.suggest(0)
    play.suggest(1)  # both places are taken: what is asked for now is ahead
    ahead = {None: {None: 2, 0: 0, 2: 2, 4: 4}, 0: {None: 0, 2: 2}, 3: {None: 3, 0: 0}}[lookahead][prefetch]
    assert len(play.asked) == ahead


def test_a_slow_searcher_is_asked_as_many_ahead_as_start_meanwhile() -> None:
    """Trials start every 2 s, a suggestion takes 6 s: three are on their way, unless the spec says otherwise."""
    leads = {}
    for prefetch in (None, 0, 1):
        play = Play(nodes=({"cpu": 4.0},), lookahead=0, prefetch=prefetch, num_samples=math.inf)
        for number in range(12):
            play.time = 2.0 * number
            if len(place_of(play)) == 4:
                end(play, number - 4)
            play.do(suggested(play, play.asked[0], cost=6.0))
        assert [play.state.supply.cost, play.state.supply.interval] == pytest.approx([6.0, 2.0])
        leads[prefetch] = len(play.asked)
    assert leads == {None: 3, 0: 0, 1: 1}


def suggested(play: Play, number: int, **values: Any) -> Any:
    return Suggested(time=play.time, trial=number, config={}, **values)


def test_never_more_ahead_than_there_are_places() -> None:
    play = Play(lookahead=0, num_samples=math.inf)
    play.state.supply.cost, play.state.supply.interval = 1000.0, 1.0
    play.suggest(0)
    assert len(play.asked) == 3  # one for the place that is free, and two ahead


def test_a_big_cluster_is_counted_quickly() -> None:
    assert len(Play(nodes=tuple({"cpu": 64.0} for _ in range(2000)), num_samples=math.inf).asked) == 10_000


def test_what_does_not_fit_is_no_supply() -> None:
    """Four trials that ask for 99 CPUs leave no place idle: others are asked for beside them."""
    play = Play(nodes=({"cpu": 4.0},), lookahead=0, misfit_after=1000.0, num_samples=math.inf)
    for number in range(4):
        assert play.asked[0] == number
        play.suggest(number, needs=Resources(cpu=99))
    assert place_of(play) == set()
    while play.asked:
        play.suggest(play.asked[0], needs=Resources())
    assert place_of(play) == {4, 5, 6, 7}


def test_a_large_trial_leaves_no_place_idle_while_it_waits() -> None:
    """One asks for the whole node while another runs: small ones are asked for beside it, up to its patience."""
    play = Play(nodes=({"cpu": 4.0},), lookahead=0, num_samples=math.inf)
    play.suggest(0, needs=Resources(cpu=1))
    play.suggest(1, needs=Resources(cpu=4))
    for _ in range(3):
        play.suggest(play.asked[0], needs=Resources(cpu=1))
    assert place_of(play) == {0, 2, 3, 4}
    assert play.asked == []


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize(("cpus", "waiting"), [(2, LARGE + 1), (99, UNFIT + 1)])
def test_what_does_not_fit_is_not_piled_up_without_end(cpus: int, waiting: int, ahead: int) -> None:
    play = Play(nodes=({"cpu": 2.0},), prefetch=ahead, misfit_after=1000.0, num_samples=math.inf)
    play.suggest(0, needs=Resources(cpu=1))
    for _ in range(100):
        if play.asked:
            play.suggest(play.asked[0], needs=Resources(cpu=cpus))
    assert play.state.queue.size == waiting + ahead
    assert place_of(play) == {0}


def test_what_can_never_fit_fails_once_the_cluster_has_been_the_same_for_long_enough() -> None:
    play = Play(misfit_after=30.0, num_samples=2)
    play.suggest(0, needs=Resources(cpu=5))
    assert play.controller.deadline() == 30.0
    play.time = 20.0
    play.do(CapacityChanged(time=20.0, nodes=({"cpu": 3.0},)))
    assert play.controller.deadline() == 50.0
    play.do(Ticked(time=49.0))
    assert play.status(0) is TrialStatus.PENDING
    play.do(Ticked(time=50.0))
    assert play.status(0) is TrialStatus.FAILED
    assert play.trial(0).reason == "resources: the trial needs 5 cpu, but the nodes have only: 3 cpu"
    assert play.controller.deadline() == math.inf


@pytest.mark.parametrize("nodes", [(), ({},), ({}, {})])
def test_a_cluster_that_has_lost_all_of_its_nodes_fails_nobody(nodes: tuple[dict[str, float], ...]) -> None:
    """Lost nodes keep their places, with nothing. Nobody fits into nothing: that says nothing of the trials."""
    play = Play(nodes=({"cpu": 2.0},), misfit_after=30.0, num_samples=2)
    play.suggest(0, needs=Resources(cpu=1))
    play.do(CapacityChanged(time=10.0, nodes=nodes))
    play.fail(0, "node_lost")
    assert play.controller.deadline() == math.inf
    play.do(Ticked(time=1000.0))
    assert play.status(0) is TrialStatus.PENDING
    play.do(CapacityChanged(time=1001.0, nodes=(*nodes, {"cpu": 2.0})))
    assert play.status(0) is TrialStatus.STARTING


def test_what_fitted_once_waits_longer_for_such_a_node() -> None:
    """The workers are lost and a head stays that holds none of them; what never fitted fails first."""
    play = Play(nodes=({"memory": 9.0}, {"cpu": 2.0}), misfit_after=30.0, node_patience=3600.0, num_samples=3)
    play.suggest(0, needs=Resources(cpu=2))
    play.suggest(1, needs=Resources(cpu=2))
    play.do(CapacityChanged(time=10.0, nodes=({"memory": 9.0}, {})))
    play.fail(0, "node_lost")
    play.suggest(2, needs=Resources(cpu=3))
    assert play.controller.deadline() == 40.0
    assert "2 trials wait for nodes such as were lost: 2 cpu; " in lost_nodes(play.state)
    assert "fails in 3600 s (node_patience)" in lost_nodes(play.state)
    play.do(Ticked(time=40.0))
    assert [play.status(trial) for trial in range(3)] == [TrialStatus.PENDING, TrialStatus.PENDING, TrialStatus.FAILED]
    assert play.controller.deadline() == 3610.0
    play.do(CapacityChanged(time=1001.0, nodes=({"memory": 9.0}, {}, {"cpu": 4.0})))
    assert [play.status(trial) for trial in range(2)] == [TrialStatus.STARTING] * 2
    assert lost_nodes(play.state) == ""


def test_what_fits_into_no_part_of_a_shared_cluster_waits_for_the_rest() -> None:
    play = Play(nodes=({"cpu": 9.0},), misfit_after=30.0, node_patience=3600.0, num_samples=2)
    play.do(CapacityChanged(time=0.0, nodes=(), fixed=True))  # another cluster
    play.do(CapacityChanged(time=0.0, nodes=({"cpu": 1.0},), fixed=True, shared=True))
    play.suggest(0, needs=Resources(cpu=2))
    play.suggest(1, needs=Resources(cpu=2))
    assert play.controller.deadline() == 3600.0
    play.do(CapacityChanged(time=10.0, nodes=({"cpu": 2.0},), shared=True))
    assert play.status(0) is TrialStatus.STARTING
    play.do(CapacityChanged(time=20.0, nodes=({"cpu": 1.0},)))
    assert play.controller.deadline() == 3620.0, "it has fitted"


def test_a_scheduler_that_waits_for_a_misfit_is_not_at_fault() -> None:
    """One that goes on by generations chooses nobody until the last of them has run, or has failed."""

    class Together(FIFO):
        def choose(self, candidates: Any) -> None:
            return None

    play = Play(Together(), nodes=({"cpu": 1.0},), misfit_after=30.0, num_samples=2)
    play.suggest(0, needs=Resources(cpu=2))
    play.suggest(1)
    assert play.finished() is None
    play.do(Ticked(time=30.0))
    assert play.status(0) is TrialStatus.FAILED
    ended = play.finished()
    assert ended is not None
    assert "lets none of 1 trials go on" in ended.reason


def test_what_fitted_once_fails_when_no_such_node_is_back() -> None:
    play = Play(nodes=({"cpu": 1.0}, {"cpu": 2.0}), misfit_after=30.0, node_patience=3600.0, num_samples=1)
    play.suggest(0, needs=Resources(cpu=2))
    play.do(CapacityChanged(time=10.0, nodes=({"cpu": 1.0}, {})))
    play.fail(0, "node_lost")
    assert play.controller.deadline() == 3610.0
    play.do(Ticked(time=3610.0))
    assert play.status(0) is TrialStatus.FAILED
    assert "a node that could hold it was lost, and none is back (node_patience)" in play.trial(0).reason
    assert "the nodes have only: 1 cpu; nothing" in play.trial(0).reason


def test_misfits_of_many_shapes_are_not_the_schedulers_fault() -> None:
    """More shapes than are looked at one by one wait for nodes to come up: nothing fits, so nothing was refused."""
    play = Play(misfit_after=30.0, num_samples=40)
    for number in range(40):
        play.suggest(number, needs=Resources(cpu=100 + number))
    assert play.finished() is None
    assert set(play.standing().values()) == {"PENDING"}
    play.do(CapacityChanged(time=29.0, nodes=({"cpu": 120.0},)))
    assert list(play.state.placed) == [0]


@pytest.mark.parametrize("why", ["paused", "ending"])
def test_misfits_wake_nobody_while_nothing_is_launched(why: str) -> None:
    """A deadline that has passed and changes nothing would have the loop write one tick after the other."""
    play = Play(misfit_after=30.0, num_samples=2)
    play.suggest(0, needs=Resources(cpu=1))
    play.suggest(1, needs=Resources(cpu=5))
    play.time = 40.0
    play.ask_for("pause" if why == "paused" else "stop")
    play.do(Ticked(time=40.0))
    assert play.controller.deadline() == math.inf
    if why == "paused":
        play.ask_for("unpause")
        assert play.status(1) is TrialStatus.FAILED


def test_a_node_that_comes_up_late_is_waited_for() -> None:
    play = Play(misfit_after=30.0, num_samples=1)
    play.suggest(0, needs=Resources(cpu=5))
    play.do(CapacityChanged(time=29.0, nodes=({"cpu": 2.0}, {"cpu": 8.0})))
    assert play.status(0) is TrialStatus.STARTING
    assert play.controller.deadline() == math.inf


def test_a_config_without_resources_fails_alone() -> None:
    """The function of the config is called once, outside; where it raises for a trial, that trial alone fails."""
    play = Play()
    assert only(play.suggest(0, needs=Resources(cpu=2.0)), Launch)[0].resources.cpu == 2.0
    commands = play.suggest(1, problem="resources: the function of the config raised KeyError('cpus')")
    assert only(commands, Tell)[0].outcome.status == "failed"
    assert "KeyError('cpus')" in play.trial(1).error
    assert play.finished() is None


def test_impossible_trials_fail_and_the_rest_goes_on() -> None:
    """Found by thought: an impossible trial that had been passed over stopped all others for ever."""
    play = Play(num_samples=30, lookahead=1, nodes=({"cpu": 1.0},), misfit_after=20.0)
    play.suggest(0)
    play.suggest(1, needs=Resources(cpu=5))
    for _ in range(200):
        if play.finished():
            break
        play.time += 1.0
        if play.asked:
            play.suggest(play.asked[0], needs=Resources())
        else:
            end(play, min(place_of(play)))
    assert play.status(1) is TrialStatus.FAILED
    assert play.state.counts[TrialStatus.COMPLETED] == 29


def test_misfits_count_as_failures() -> None:
    play = Play(max_failures=0, num_samples=3)
    play.suggest(0, needs=Resources(cpu=5))
    finish = play.finished()
    assert finish
    assert finish.status == "failed"


def test_one_misfit_too_many_ends_what_runs_at_once() -> None:
    play = Play(max_failures=0, num_samples=8)
    play.suggest(0)
    play.suggest(2, needs=Resources(cpu=5))
    assert play.standing() == {0: "STOPPED", 2: "FAILED"}
    assert play.finished() == Finish(status="failed", reason=play.trial(0).reason)
    assert only_kinds(play) == ["moved", "ending", "verdict", "finished"]


def only_kinds(play: Play) -> list[str]:
    return [effect.kind for effect in play.effects]


def test_a_gang_is_placed_after_at_most_patience_younger_trials() -> None:
    """Invariant 5, where small trials come and go for ever."""
    play = Play(nodes=({"cpu": 2.0},), num_samples=math.inf)
    play.suggest(0)
    play.suggest(1, needs=Resources(workers=2))
    placed = []
    for _ in range(40):
        while play.asked:
            placed += [launch.trial for launch in only(play.suggest(play.asked[0], needs=Resources()), Launch)]
        # They end in the order in which they started: never do both places become free at once by chance.
        placed += [launch.trial for launch in only(end(play, min(place_of(play))), Launch)]
        if 1 in placed:
            break
    assert placed.index(1) == PATIENCE
    assert play.trial(1).bypassed == 0


def test_paused_trials_do_not_pass_one_that_is_starved() -> None:
    trials = [Trial(n, {}, Resources(workers=2) if n == 1 else Resources()) for n in range(PATIENCE + 4)]
    ledger = Ledger([{"cpu": 2.0}])
    queue = Queue(ledger)
    ledger.lease(99, Resources())  # one place is left, and the gang needs two
    queue.add(trials[1])
    for number in (0, 3):
        trials[number].status = TrialStatus.PAUSED
        queue.add_paused(trials[number])
    queue.add(trials[2])
    for younger in range(4, PATIENCE + 4):
        assert not queue.reserved
        assert queue.paused(3) is trials[3]
        assert [trial.number for trial in queue.waiting()] == [2]
        queue.pass_over(younger)
    assert bool(queue.reserved)
    assert queue.paused(3) is None
    assert list(queue.waiting()) == []
    assert queue.paused(0) is trials[0]  # an older one may
    queue.discard(trials[1])
    assert bool(queue.reserved) is False
    assert queue.paused(3) is trials[3]


def test_nothing_is_asked_for_while_a_place_is_kept_for_a_starved_gang() -> None:
    play = Play(nodes=({"cpu": 2.0},), lookahead=0, num_samples=math.inf)
    play.suggest(0)
    play.suggest(1, needs=Resources(workers=2))
    for _ in range(PATIENCE):
        assert not play.state.queue.reserved
        (number,) = play.asked
        play.suggest(number)
        assert place_of(play) == {0, number}
        end(play, number)
    assert play.state.queue.reserved
    assert place_of(play) == {0}
    assert play.asked == []


def test_exhausted_gives_back_the_numbers() -> None:
    play = Play(num_samples=math.inf, nodes=({"cpu": 4.0},))
    play.suggest(0)
    play.do(Exhausted(time=0.0, reason="the grid is done"))
    assert play.state.supply.next_number == 1
    assert SupplyEnded() in play.effects
    assert not play.controller.accepts(Exhausted(time=0.0, reason="the grid is done"))
    end(play, 0)
    assert play.finished() == Finish(status="finished", reason="the grid is done")


def test_a_searcher_that_failed_lets_running_trials_finish() -> None:
    play = Play()
    play.suggest(0)
    play.do(Exhausted(time=0.0, reason="the searcher X failed", failed=True))
    assert play.finished() is None
    end(play, 0)
    assert play.finished() == Finish(status="failed", reason="the searcher X failed")
    assert play.status(0) is TrialStatus.COMPLETED


def test_the_end_of_the_supply_is_told_once() -> None:
    play = Play(num_samples=1)
    assert SupplyEnded() not in play.effects
    play.suggest(0)
    assert SupplyEnded() in play.effects
    play.report(0, 1.0)
    assert SupplyEnded() not in play.effects
    play.ask_for("extend", trials=1)
    assert play.effects == [Asked(numbers=(1,))]
    play.suggest(1)
    assert SupplyEnded() in play.effects


@pytest.mark.parametrize("status", ["unknown", "does not fit", "placed"])
def test_a_scheduler_that_chooses_what_is_no_candidate(status: str) -> None:
    class Wild(FIFO):
        def choose(self, candidates: Any) -> int | None:
            return {"unknown": 77, "does not fit": 1, "placed": 0}[status] if started else super().choose(candidates)

    started: bool = False
    play = Play(Wild(), prefetch=3, nodes=({"cpu": 4.0},), misfit_after=math.inf)
    play.suggest(0)
    play.ask_for("pause")
    play.suggest(1, needs=Resources(cpu=9))
    play.suggest(2)
    started = True
    number = {"unknown": 77, "does not fit": 1, "placed": 0}[status]
    with pytest.raises(SchedulerError, match=f"the scheduler Wild chose trial {number}, which is not among the cand"):
        play.ask_for("unpause")


class Never(FIFO):
    """Lets nobody go on."""

    def choose(self, candidates: Any) -> int | None:
        return None


def test_a_scheduler_that_lets_nobody_go_on_ends_the_experiment_after_one_turn() -> None:
    play = Play(Never(), lookahead=0)
    play.suggest(0)
    finish = play.finished()
    assert finish is None  # trial 1 is still asked for, and its arrival may change its mind
    play.suggest(1)
    finish = play.finished()
    assert finish is not None
    assert finish.status == "failed"
    assert finish.reason == (
        "the scheduler Never lets none of 2 trials go on although nothing runs and there are places: choose() returned "
        "None, and nothing will happen of itself that could change that"
    )


def test_a_scheduler_may_wait_for_what_runs() -> None:
    class Pairs(FIFO):
        """Starts two at once, or none."""

        half: bool = False

        def choose(self, candidates: Any) -> int | None:
            waiting = [trial.number for trial in candidates.waiting()]
            if len(waiting) >= 2 or (self.half and waiting):
                self.half = not self.half
                return int(waiting[0])
            return None

    play = Play(Pairs(), nodes=({"cpu": 2.0},), lookahead=0, num_samples=4)
    play.suggest(0)
    assert place_of(play) == set()
    play.suggest(1)
    assert place_of(play) == {0, 1}
    end(play, 0)
    play.suggest(2)
    assert place_of(play) == {1}
    assert play.finished() is None  # trial 1 runs, and its end may change its mind
    end(play, 1)
    play.suggest(3)
    assert place_of(play) == {2, 3}


def test_what_cannot_fit_fails_at_once_where_the_cluster_never_grows() -> None:
    play = Play(nodes=({"cpu": 2.0},), num_samples=2, misfit_after=30.0)
    play.suggest(0, needs=Resources(cpu=99))
    assert play.status(0) is TrialStatus.PENDING
    play.do(CapacityChanged(time=play.time, nodes=({"cpu": 2.0},), fixed=True))
    assert play.status(0) is TrialStatus.FAILED
    assert "the trial needs 99 cpu, but the nodes have only: 2 cpu" in play.trial(0).error


def test_what_ran_when_the_driver_was_lost_gets_its_place_before_anybody_chooses() -> None:
    class Newest(FIFO):
        def choose(self, candidates: Any) -> int | None:
            return max((trial.number for trial in candidates.waiting()), default=None)

    play = Play(Newest(), nodes=({"cpu": 1.0},), num_samples=3, prefetch=2)
    for number in range(3):
        play.suggest(number)
    assert play.standing() == {0: "STARTING", 1: "PENDING", 2: "PENDING"}
    play.do(Resumed(time=play.time))
    play.do(CapacityChanged(time=play.time, nodes=({"cpu": 1.0},)))
    assert play.standing() == {0: "STARTING", 1: "PENDING", 2: "PENDING"}
    play.report(0, 1.0, done=True)
    assert play.standing() == {0: "COMPLETED", 1: "PENDING", 2: "STARTING"}
