from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from results import example
from results.errors import UnknownRun
from results.queries import latest_run, leaderboard, runs
from results.store import Store


@pytest.fixture
def full(filled: Path) -> Iterator[Store]:
    with Store.open(filled, create=False) as store:
        yield store


def test_the_final_table_of_the_example(full: Store) -> None:
    """Real boards come first, the fastest variant first, with the figures of the view."""
    table = leaderboard(full, example.RUN_ID)
    assert [(row.board, row.variant, row.rank, row.p50_ms) for row in table] == [
        ("pi5", "int8_ptq", 1, 30.25),
        ("pi5", "fp32", 2, 50.25),
        ("virtual-pi", "int8_ptq", None, 600.25),
        ("virtual-pi", "fp32", None, 1000.25),
    ]
    first = table[0]
    assert (first.map50, first.eval_set, first.eval_images) == (0.89, "shapes", 64)
    assert (first.emulated, table[2].emulated) == (False, True)
    assert (first.temp_max_c, table[2].temp_max_c) == (55.0, None)
    assert (first.p99_ms, first.trials, first.blocks, first.n) == (None, 2, 2, 400)


def test_ratios_are_paired_by_block(full: Store) -> None:
    """The ratio is the geometric mean over common blocks, with an interval around it."""
    int8, fp32, *_ = leaderboard(full, example.RUN_ID)
    assert fp32.ratio is None
    ratio = int8.ratio
    assert ratio is not None
    assert ratio.value == pytest.approx((30 / 50 * 30.5 / 50.5) ** 0.5)
    assert (ratio.blocks, ratio.method) == (2, "paired blocks")
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < ratio.value < ratio.high


def test_one_block_gives_a_ratio_without_interval(store: Store) -> None:
    """With one block there is a ratio and no interval."""
    for order, variant in enumerate(("fp32", "int8_ptq")):
        store.record_trial(example.trial("pi5", variant, 0, order))
    ratio = leaderboard(store, example.RUN_ID)[0].ratio
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(0.6), None, None)


def test_a_run_without_trials_has_an_empty_table(store: Store) -> None:
    """A run that stored nothing yet is no error."""
    assert leaderboard(store, example.RUN_ID) == []


def test_an_unknown_run_is_named(store: Store) -> None:
    """Asking for a run that is not there names it and the command that lists runs."""
    with pytest.raises(UnknownRun, match=r"'nope'.*orchestrator runs"):
        leaderboard(store, "nope")


def test_past_runs_newest_first(full: Store) -> None:
    """Runs are listed newest first, with boards and how many trials finished."""
    later = dataclasses.replace(
        example.run("second"), started_utc=example.START + timedelta(days=1)
    )
    full.record_run(later)
    second, first = runs(full)
    assert (second.run_id, second.state, second.boards, second.trials) == (
        "second",
        "running",
        (),
        0,
    )
    assert (first.run_id, first.state, first.trials, first.finished) == (
        example.RUN_ID, "finished", 8, 8,
    )  # fmt: skip
    assert first.boards == ("pi5", "virtual-pi")
    assert [row.run_id for row in runs(full, limit=1)] == ["second"]
    assert latest_run(full) == "second"


def test_a_database_without_runs_says_so(path: Path) -> None:
    """The latest run of an empty database is an error that says what makes one."""
    with Store.open(path, create=True) as store:
        assert runs(store) == []
        with pytest.raises(UnknownRun, match="no run yet"):
            latest_run(store)
