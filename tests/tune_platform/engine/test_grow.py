"""Trials that may grow have what no other is left to use."""

from __future__ import annotations

import pytest

from tests.tune_platform.engine.play import Play, only
from tune_platform.errors import SpecError
from tune_platform.protocol.commands import Launch, Save
from tune_platform.resources import Resources
from tune_platform.spec.parts import take_resources

GROWS = Resources(cpu=1, grow=True)


def growing(trials: int, cpus: float, resources: Resources = GROWS) -> Play:
    play = Play(nodes=({"cpu": cpus},), num_samples=trials, resources=resources)
    for number in range(trials):
        play.suggest(number)
        if number in play.state.placed:
            play.start(number)
    return play


def test_the_last_trial_has_the_places_of_those_that_have_ended() -> None:
    play = growing(2, 2.0)
    play.report(0, 1.0, saved=True)
    assert not only(play.report(0, 1.0), Save), "the other one holds the rest"
    assert only(play.report(1, 1.0, done=True), Save) == [Save(trial=0, halt=True)]
    (launch,) = only(play.saved(0), Launch)
    assert (launch.resources, launch.start, launch.committed) == (Resources(cpu=2, grow=True), 2, 2)
    play.start(0)
    assert not only(play.report(0, 1.0, saved=True), Save), "there is no more"


def test_nothing_grows_while_another_waits_or_is_to_come() -> None:
    play = Play(nodes=({"cpu": 2.0},), num_samples=3, resources=GROWS)
    play.suggest(0), play.start(0)
    assert not only(play.report(0, 1.0, saved=True), Save)


def test_one_without_a_checkpoint_does_not_begin_anew_for_that() -> None:
    play = growing(1, 4.0)
    assert not only(play.report(0, 1.0), Save)


def test_a_gang_grows_by_its_workers_at_once_as_far_as_there_is_room() -> None:
    play = growing(1, 9.0, Resources(cpu=1, workers=2, grow=True))
    (launch,) = only(play.report(0, 1.0, saved=True), Launch)
    assert launch.resources.workers == len(launch.nodes) == 8
    play.start(0)
    assert not only(play.report(0, 1.0, saved=True), Launch)


def test_of_two_that_are_left_each_has_its_part() -> None:
    play = growing(3, 4.0)
    play.report(0, 1.0, saved=True), play.report(1, 1.0, saved=True)
    play.report(2, 1.0, done=True)
    assert [play.trial(number).resources.cpu for number in (0, 1)] == [2, 1]
    play.start(0)
    assert [play.trial(number).resources.cpu for number in (0, 1)] == [2, 2]


def test_those_that_are_not_to_grow_do_not() -> None:
    play = growing(1, 4.0, Resources(cpu=1))
    assert not only(play.report(0, 1.0, saved=True), Save)


def test_twice_a_fraction_of_a_gpu_is_at_most_one() -> None:
    assert Resources(gpu=0.6).grown().gpu == 1
    assert Resources(gpu=0.25).grown().gpu == 0.5
    assert Resources(gpu=2).grown().gpu == 4


def test_it_is_said_in_a_spec() -> None:
    assert take_resources({"cpu": 1, "grow": True}) == GROWS
    with pytest.raises(SpecError, match="grow: got"):
        take_resources({"grow": "yes"})
