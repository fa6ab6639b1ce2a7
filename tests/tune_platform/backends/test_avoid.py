"""A node on which trial after trial fails is avoided; a search whose code fails everywhere avoids none."""

from __future__ import annotations

import pytest

from tune_platform.backends._ray_avoid import IN_A_ROW, Rows


def test_a_node_where_five_trials_in_a_row_fail_is_avoided_once_others_go_well_elsewhere() -> None:
    rows = Rows()
    assert not any(rows.failed(1, trial, "exception") for trial in range(IN_A_ROW + 2)), "it may be the code"
    rows.went_well(0)
    assert rows.failed(1, 9, "worker_died")


def test_one_that_goes_well_there_ends_the_row() -> None:
    rows = Rows()
    for trial in range(IN_A_ROW - 1):
        assert not rows.failed(1, trial, "exception")
        rows.went_well(0)
    rows.went_well(1)
    assert [rows.failed(1, trial, "exception") for trial in range(10, 10 + IN_A_ROW)] == [False] * IN_A_ROW
    rows.went_well(0)
    assert rows.failed(1, 20, "exception")


def test_what_went_well_elsewhere_before_the_row_began_says_nothing() -> None:
    rows = Rows()
    rows.went_well(0)
    assert not any(rows.failed(1, trial, "exception") for trial in range(2 * IN_A_ROW))


@pytest.mark.parametrize("cause", ["bad_metric", "bad_report", "timeout", "node_lost", "preempted"])
def test_what_is_not_the_machines_fault_does_not_count(cause: str) -> None:
    rows = Rows()
    for trial in range(2 * IN_A_ROW):
        assert not rows.failed(1, trial, cause)
        rows.went_well(0)


def test_one_trial_that_fails_again_and_again_is_no_row() -> None:
    rows = Rows()
    for _ in range(2 * IN_A_ROW):
        assert not rows.failed(1, 3, "worker_died")
        rows.went_well(0)
