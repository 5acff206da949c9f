from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.wire import Samples
from results import example
from results.check import check, recompute, repair_summaries
from results.records import TrialRecord
from results.store import Store


def test_a_sound_database_has_no_problem(filled: Path) -> None:
    """What was stored and not touched passes, telemetry, scores and missing sensors included."""
    with Store.open(filled, create=False) as store:
        assert check(store) == []
        assert repair_summaries(store) == 0


def segmented() -> TrialRecord:
    """A trial of which every image has a score."""
    record = example.trial("pi5", "fp32", 0, 0)
    return dataclasses.replace(record, evaluation=example.segmentation())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE image_scores SET dice = 0.99 WHERE place = 3",
        "DELETE FROM image_scores WHERE place = 23",
        "UPDATE image_scores SET image_id = 'other' WHERE place = 0",
        "UPDATE image_scores SET dice = NULL, matches_json = '{}' WHERE place = 1",
    ],
)
def test_a_changed_score_of_an_image_is_found(store: Store, path: Path, statement: str) -> None:
    """What makes up a figure is as well guarded as the figure."""
    store.record_trial(segmented())
    assert check(store) == []
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount
    assert [problem.what for problem in check(store)] == [
        "trial, readings or evaluation were changed since they were stored"
    ]


def test_trials_without_samples_or_readings_pass(store: Store) -> None:
    """A trial that measured nothing is sound, too."""
    record = example.trial("pi5", "fp32", 0, 0)
    store.record_trial(dataclasses.replace(record, samples=None, readings=[]))
    store.record_trial(example.trial("pi5", "fp32", 1, 1, samples=example.timed([1], [], [])))
    assert check(store) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE samples SET latency_ns = latency_ns + 1 WHERE trial_no = 2 AND seq = 100",
         "samples were changed"),
        ("UPDATE samples SET gap_ns = 0 WHERE trial_no = 2 AND seq = 100", "samples were changed"),
        ("DELETE FROM samples WHERE trial_no = 2 AND seq = 100", "the last has seq 202"),
        ("DELETE FROM samples WHERE trial_no = 2 AND seq = 202", "samples were changed"),
        ("DELETE FROM samples WHERE trial_no = 2", "samples were changed"),
        ("UPDATE samples SET phase = 0 WHERE trial_no = 2 AND seq = 100", "out of order"),
        ("UPDATE readings SET temp_c = 20 WHERE trial_no = 2 AND seq = 1", "readings"),
        ("UPDATE readings SET temp_c = NULL WHERE trial_no = 2 AND seq = 1", "readings"),
        ("UPDATE evaluations SET map50 = 0.99 WHERE trial_no = 2", "evaluation"),
        ("UPDATE trials SET variant = 'better' WHERE trial_no = 2", "trial, readings"),
        ("UPDATE trials SET spec_json = '{}' WHERE trial_no = 2", "trial, readings"),
        ("UPDATE summaries SET p50_ns = 1 WHERE trial_no = 2", "summary"),
        ("UPDATE summaries SET mean_ns = mean_ns * 1.001 WHERE trial_no = 2", "summary"),
        ("UPDATE summaries SET throttled_bits = 4 WHERE trial_no = 2", "summary"),
        ("DELETE FROM summaries WHERE trial_no = 2", "summary"),
        ("UPDATE fingerprints SET fingerprint_json = '{}' WHERE emulated = 0", "content was"),
        ("DELETE FROM runs", "has no runs row"),
        ("DELETE FROM artifacts", "has no artifacts row"),
    ],
)  # fmt: skip
def test_a_change_behind_our_back_is_found(filled: Path, statement: str, found: str) -> None:
    """Whatever is altered in the file by hand, the check names it."""
    with closing(sqlite3.connect(filled)) as connection, connection:
        assert connection.execute(statement).rowcount
    with Store.open(filled, create=False) as store:
        problems = check(store)
    assert any(found in problem.what for problem in problems), problems


def test_a_problem_names_its_trial(filled: Path) -> None:
    """A problem says which trial, on which board."""
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("UPDATE samples SET latency_ns = 1 WHERE trial_no = 7 AND seq = 9")
    with Store.open(filled, create=False) as store:
        assert {problem.where for problem in check(store)} == {
            "trial 7 (virtual-pi-002 on virtual-pi)"
        }


def test_summaries_can_be_written_anew(filled: Path) -> None:
    """Spoiled summaries are recomputed from samples and readings, exactly as they were."""
    with Store.open(filled, create=False) as store:
        before = store.rows("SELECT * FROM summaries ORDER BY trial_no")
    with closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("UPDATE summaries SET p50_ns = 1, fps = 9, temp_max_c = NULL")
    with Store.open(filled, create=False) as store:
        assert repair_summaries(store) == 8
        assert store.rows("SELECT * FROM summaries ORDER BY trial_no") == before
        assert check(store) == []


def test_a_summary_is_what_the_samples_say(store: Store) -> None:
    """Recomputing a stored trial gives its stored summary, field by field."""
    samples: Samples = example.spread(50_000_000, 700, step_ns=999)
    store.record_trial(example.trial("pi5", "fp32", 0, 0, samples=samples))
    (stored,) = store.rows("SELECT * FROM summaries")
    assert recompute(store, 1) == {k: v for k, v in stored.items() if k != "trial_no"}
