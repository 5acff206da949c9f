from __future__ import annotations

import dataclasses
import sqlite3
from array import array
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event

from agent.wire import Failure, FailureKind, Reading, Samples
from results import example
from results.errors import RecordRefused, ResultsError, UnknownRun
from results.records import EvaluationRecord, Recorded, TrialRecord
from results.store import Store

STORED, ALREADY = Recorded.STORED, Recorded.ALREADY
END = example.START + timedelta(minutes=5)


def trial(**changes: object) -> TrialRecord:
    record = example.trial("pi5", "fp32", 0, 0, scored=True)
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def failed(attempt: int = 1) -> TrialRecord:
    base = trial()
    failure = Failure(FailureKind.OUT_OF_MEMORY, "used 900 MB of 900 MB")
    outcome = msgspec.structs.replace(
        base.outcome, state="failed", failure=failure, load_ns=None, runtime_version=None,
        inputs_kind=None, peak_rss_bytes=None,
    )  # fmt: skip
    return dataclasses.replace(
        base, outcome=outcome, samples=None, readings=[], evaluation=None, attempt=attempt
    )


def counts(path: Path) -> dict[str, int]:
    tables = ("trials", "samples", "summaries", "readings", "evaluations")
    with closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in tables
        }


NOTHING = {"trials": 0, "samples": 0, "summaries": 0, "readings": 0, "evaluations": 0}
ONE = {"trials": 1, "samples": 203, "summaries": 1, "readings": 3, "evaluations": 1}


def twice_the_same_image() -> EvaluationRecord:
    whole = example.segmentation()
    return dataclasses.replace(whole, per_image=[whole.per_image[0]] * 2)


def test_a_trial_is_stored_whole(store: Store, path: Path) -> None:
    """One call stores the trial, every sample, the summary, the readings and the evaluation."""
    assert store.record_trial(trial()) is STORED
    assert counts(path) == ONE


def test_samples_come_back_as_they_were(store: Store) -> None:
    """Order, phases, latencies and gaps survive exactly."""
    samples = Samples((1, 2, 3), array("Q", [9, 8, 7, 3, 2**62, 0]), array("Q", [0, 5, 4, 3, 2, 1]))
    store.record_trial(trial(samples=samples))
    assert store.samples(1) == samples


def test_readings_come_back_as_they_were(store: Store) -> None:
    """Telemetry survives exactly: None stays None and zero stays zero."""
    readings = [
        Reading(1, None, None, None, None, None, None),
        Reading(2, 0.0, 0, 0, 0, 0, 0.0),
        Reading(3, 1 / 3, 2_400_000_000, 0x50005, 2**40, 2**30, 1e-300),
    ]
    store.record_trial(trial(readings=readings))
    assert store.readings(1) == readings


def test_missing_sensors_are_null_in_the_file(store: Store, path: Path) -> None:
    """A board without sensors has NULL in readings and summaries, never zero."""
    store.record_trial(example.trial("virtual-pi", "fp32", 0, 0))
    with closing(sqlite3.connect(path)) as connection:
        read = connection.execute("SELECT temp_c, clock_hz, throttled_bits, power_w FROM readings")
        assert set(read.fetchall()) == {(None, None, None, None)}
        summed = connection.execute(
            "SELECT temp_start_c, temp_max_c, clock_min_hz, throttled_bits, power_mean_w "
            "FROM summaries"
        )
        assert summed.fetchall() == [(None,) * 5]


def test_the_same_trial_again_changes_nothing(store: Store, path: Path) -> None:
    """A trial is stored exactly once: the same again is a no-op that says so."""
    store.record_trial(trial())
    later = trial(started_utc=END, ended_utc=END)  # fetched from the board a second time
    assert store.record_trial(trial()) is ALREADY
    assert store.record_trial(later) is ALREADY
    assert counts(path) == ONE


def test_the_same_trial_after_reopening_changes_nothing(store: Store, path: Path) -> None:
    """Exactly once holds across processes, too."""
    store.record_trial(trial())
    with Store.open(path, create=False) as again:
        assert again.record_trial(trial()) is ALREADY
    assert counts(path) == ONE


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": example.spread(50_000_001, 200)},
        {"samples": None},
        {"readings": []},
        {"evaluation": None},
        {"evaluation": example.evaluation(0.123)},
        {"variant": "int8_ptq"},
        {"block": 1},
    ],
)
def test_a_finished_trial_is_frozen(store: Store, path: Path, changes: dict[str, object]) -> None:
    """Other content under the same attempt is refused, and what is stored stays."""
    store.record_trial(trial())
    with pytest.raises(RecordRefused, match="stored with other content"):
        store.record_trial(trial(**changes))
    assert counts(path) == ONE
    assert store.record_trial(trial()) is ALREADY


def test_a_finished_trial_has_no_further_attempt(store: Store, path: Path) -> None:
    """After a finished attempt, another attempt at the trial is refused."""
    store.record_trial(trial())
    with pytest.raises(RecordRefused, match="attempt 1 has finished"):
        store.record_trial(trial(attempt=2))
    assert counts(path) == ONE


def test_failed_attempts_are_kept(store: Store) -> None:
    """A failed attempt stays when the next one finishes; only the finished one counts."""
    assert store.record_trial(failed()) is STORED
    assert store.finished_trials(example.RUN_ID) == set()
    assert store.attempts(example.RUN_ID) == {("pi5", "pi5-000"): 1}
    assert store.record_trial(trial(attempt=2)) is STORED
    assert store.record_trial(failed()) is ALREADY
    assert store.finished_trials(example.RUN_ID) == {("pi5", "pi5-000")}
    assert store.attempts(example.RUN_ID) == {("pi5", "pi5-000"): 2}
    rows = store.rows("SELECT attempt, state, failure FROM v_trials ORDER BY attempt")
    assert [tuple(row.values()) for row in rows] == [
        (1, "failed", "out_of_memory: used 900 MB of 900 MB"),
        (2, "finished", None),
    ]


def test_samples_before_a_failure_are_kept(store: Store) -> None:
    """A trial that was killed midway keeps the samples it had."""
    partly = dataclasses.replace(failed(), samples=example.spread(50_000_000, 20))
    store.record_trial(partly)
    assert store.samples(1) == partly.samples
    assert store.rows("SELECT n FROM v_trials") == [{"n": 20}]


def test_equal_trial_ids_on_two_boards_are_two_trials(store: Store) -> None:
    """A trial is known by its board and its id together."""
    store.record_trial(trial())
    store.record_trial(trial(board="virtual-pi"))
    assert store.finished_trials(example.RUN_ID) == {
        ("pi5", "pi5-000"),
        ("virtual-pi", "pi5-000"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"board": "nobody"}, "board 'nobody' is not recorded"),
        ({"attempt": 0}, "attempt"),
        ({"block": -1}, "block"),
        ({"variant": ""}, "variant"),
        ({"model": " tinydet"}, "model"),
        ({"started_utc": datetime(2026, 1, 1)}, "no zone"),
        ({"evaluation": example.evaluation(1.5)}, "map50"),
        ({"evaluation": example.evaluation(float("nan"))}, "nan"),
        ({"evaluation": example.segmentation(0.6)}, "dice"),
        ({"evaluation": twice_the_same_image()}, "image_id"),
        ({"evaluation": dataclasses.replace(example.evaluation(), where="host")}, "host"),
        ({"readings": [Reading(1, float("inf"), None, None, None, None, None)]}, "temp_c is inf"),
        (
            {"samples": Samples((0, 0, 2), array("Q", [1]), array("Q", [0]))},
            "do not agree",
        ),
        (
            {"samples": Samples((0, 0, 1), array("Q", [2**63]), array("Q", [0]))},
            "64 bits",
        ),
    ],
)
def test_a_record_that_cannot_be_true_is_refused(
    store: Store, path: Path, changes: dict[str, object], message: str
) -> None:
    """A contradiction is refused with its values, and nothing of the trial is stored."""
    with pytest.raises(RecordRefused, match=message):
        store.record_trial(trial(**changes))
    assert counts(path) == NOTHING
    assert store.record_trial(trial()) is STORED


def test_an_outcome_of_another_trial_is_refused(store: Store) -> None:
    """Spec and outcome must be of the same trial."""
    outcome = msgspec.structs.replace(trial().outcome, trial_id="other")
    with pytest.raises(RecordRefused, match="'other'"):
        store.record_trial(trial(outcome=outcome))


def test_a_trial_needs_its_artifact(store: Store, path: Path) -> None:
    """A trial of a file that was never recorded is refused."""
    with pytest.raises(RecordRefused, match="artifact is not recorded"):
        store.record_trial(example.trial("pi5", "unknown", 0, 0))
    assert counts(path) == NOTHING


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO samples VALUES (99, 0, 2, 1, 0)",
        "INSERT INTO samples VALUES (1, 900, 3, 1, 0)",
        "INSERT INTO samples VALUES (1, 900, 2, -1, 0)",
        "INSERT INTO samples VALUES (1, 900, 2, 'fast', 0)",
        "INSERT INTO samples VALUES (1, 0, 2, 1, 0)",
        "UPDATE trials SET state = 'splendid'",
        "UPDATE trials SET short = 2",
        "UPDATE trials SET board = 'virtual-pi'",
        "UPDATE trials SET artifact_sha256 = 'abc'",
        "UPDATE trials SET failure_kind = 'deadline'",
        "UPDATE summaries SET p50_ns = NULL",
        "UPDATE summaries SET p50_ns = 'about 50'",
        "UPDATE evaluations SET map50 = 1.2",
        "UPDATE evaluations SET place = 'host'",
        "UPDATE evaluations SET dice = -0.1",
        "INSERT INTO image_scores VALUES (1, 0, 'a', 1.5, NULL)",
        "INSERT INTO image_scores VALUES (1, 0, 'a', NULL, NULL)",
        "INSERT INTO image_scores VALUES (1, 0, 'a', 0.5, '{}')",
        "INSERT INTO image_scores VALUES (77, 0, 'a', 0.5, NULL)",
        "UPDATE runs SET state = 'finished'",
        "UPDATE fingerprints SET emulated = 'yes'",
        "DELETE FROM artifacts",
        "DELETE FROM fingerprints",
        "INSERT INTO schema_info VALUES (2, 1, '1', '')",
    ],
)
def test_the_database_itself_refuses_nonsense(store: Store, path: Path, statement: str) -> None:
    """Foreign keys, checks and types hold against whoever writes."""
    store.record_trial(trial())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)


def test_deleting_a_run_deletes_what_it_measured(store: Store, path: Path) -> None:
    """A run takes its boards, trials and samples with it; files and fingerprints stay."""
    store.record_trial(trial())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("DELETE FROM runs")
    assert counts(path) == NOTHING
    assert len(store.rows("SELECT * FROM artifacts")) == 3
    assert len(store.rows("SELECT * FROM fingerprints")) == 2


def test_runs_boards_and_artifacts_are_stored_once(store: Store) -> None:
    """The same run, board or artifact again is a no-op that says so."""
    assert store.record_run(example.run()) is ALREADY
    assert (
        store.record_board(example.RUN_ID, example.board("pi5", example.BOARDS["pi5"])) is ALREADY
    )
    assert store.record_artifact(example.artifact("fp32")) is ALREADY
    assert len(store.rows("SELECT * FROM boards")) == 2


def test_a_run_that_contradicts_itself_is_refused(store: Store) -> None:
    """Another request under a known run id is refused, naming what differs."""
    with pytest.raises(RecordRefused, match="seed 1 \\(now 2\\)"):
        store.record_run(dataclasses.replace(example.run(), seed=2))
    with pytest.raises(RecordRefused, match="size_bytes"):
        store.record_artifact(dataclasses.replace(example.artifact("fp32"), size_bytes=1))
    with pytest.raises(RecordRefused, match="experiment_json is not JSON"):
        store.record_run(dataclasses.replace(example.run("other"), experiment_json="{"))


def test_one_file_under_two_labels_is_one_artifact(store: Store) -> None:
    """Equal bytes are one artifact with the labels of the first."""
    twin = dataclasses.replace(example.artifact("fp32"), variant="copy", isa="x86_64")
    assert store.record_artifact(twin) is ALREADY
    sql = "SELECT variant FROM artifacts WHERE artifact_sha256 = :digest"
    assert store.rows(sql, digest=twin.sha256) == [{"variant": "fp32"}]


def test_equal_fingerprints_are_stored_once(store: Store) -> None:
    """Two runs on the same board share its fingerprint."""
    store.record_run(example.run("second"))
    board = example.board("pi5", example.BOARDS["pi5"])
    assert store.record_board("second", board) is STORED
    assert len(store.rows("SELECT * FROM fingerprints")) == 2


def test_a_board_that_was_rebooted_gets_a_further_row(store: Store) -> None:
    """A new fingerprint during a run is kept beside the old one, and later trials name it."""
    board = example.board("pi5", example.BOARDS["pi5"])
    rebooted = dataclasses.replace(
        board, fingerprint=msgspec.structs.replace(board.fingerprint, boot_id="second")
    )
    store.record_trial(trial())
    assert store.record_board(example.RUN_ID, rebooted) is STORED
    store.record_trial(example.trial("pi5", "fp32", 1, 1))
    rows = store.rows("SELECT trial_no, board_no FROM trials ORDER BY trial_no")
    assert rows[0]["board_no"] < rows[1]["board_no"]
    assert len(store.rows("SELECT * FROM v_leaderboard")) == 1


def test_a_run_ends_once(store: Store) -> None:
    """A finished run stays finished; an interrupted one can go on and finish."""
    run_id = example.RUN_ID
    assert store.finish_run(run_id, "interrupted", END) is STORED
    store.resume_run(run_id)
    assert store.rows("SELECT state, ended_utc FROM runs") == [
        {"state": "running", "ended_utc": None}
    ]
    assert store.finish_run(run_id, "finished", END) is STORED
    assert store.finish_run(run_id, "finished", END + timedelta(1)) is ALREADY
    with pytest.raises(RecordRefused, match="has finished"):
        store.finish_run(run_id, "failed", END)
    with pytest.raises(RecordRefused, match="has finished"):
        store.resume_run(run_id)
    assert store.rows("SELECT ended_utc FROM runs") == [
        {"ended_utc": "2026-01-01T12:05:00.000000Z"}
    ]


def test_times_are_stored_in_utc(store: Store) -> None:
    """A time with another zone is stored as the same moment in UTC."""
    east = timezone(timedelta(hours=2))
    store.record_trial(trial(started_utc=datetime(2026, 1, 1, 1, tzinfo=east), ended_utc=END))
    assert store.rows("SELECT started_utc FROM trials") == [
        {"started_utc": "2025-12-31T23:00:00.000000Z"}
    ]
    assert example.START.tzinfo is UTC


def test_an_unknown_run_is_named(store: Store) -> None:
    """Every call about a run that is not there says which, and how to find the others."""
    board = example.board("pi5")
    for call in (
        lambda: store.finish_run("nope", "finished", END),
        lambda: store.resume_run("nope"),
        lambda: store.finished_trials("nope"),
        lambda: store.attempts("nope"),
        lambda: store.record_board("nope", board),
    ):
        with pytest.raises(UnknownRun, match=r"'nope'.*orchestrator runs"):
            call()


def test_scores_of_images_are_stored_in_order(store: Store) -> None:
    """Each image's score is there in the order of the set, also of what the host evaluated."""
    host = dataclasses.replace(example.segmentation(), where="host")
    store.record_evaluation(example.RUN_ID, example.artifact("fp32").sha256, host)
    store.record_trial(trial(evaluation=example.segmentation(-0.1)))
    rows = store.rows("SELECT * FROM image_scores ORDER BY evaluation_no, place")
    assert [row["place"] for row in rows] == [*range(24)] * 2
    expected = [*host.per_image, *example.segmentation(-0.1).per_image]
    assert [(row["image_id"], row["dice"]) for row in rows] == [
        (image.image_id, image.dice) for image in expected
    ]


def test_an_evaluation_on_the_host_is_stored_once(store: Store) -> None:
    """The host's figure for a file is stored once; another figure for it is refused."""
    digest = example.artifact("fp32").sha256
    host = dataclasses.replace(example.evaluation(0.8), where="host", subset_seed=None)
    assert store.record_evaluation(example.RUN_ID, digest, host) is STORED
    assert store.record_evaluation(example.RUN_ID, digest, host) is ALREADY
    with pytest.raises(RecordRefused, match="map50"):
        store.record_evaluation(example.RUN_ID, digest, dataclasses.replace(host, map50=0.7))
    with pytest.raises(RecordRefused, match="record_trial"):
        store.record_evaluation(example.RUN_ID, digest, example.evaluation())
    with pytest.raises(RecordRefused, match="FOREIGN KEY"):
        store.record_evaluation(example.RUN_ID, "f" * 64, host)


def test_a_full_disk_loses_nothing_that_was_stored(store: Store, path: Path) -> None:
    """When the file cannot grow, the trial is refused whole and the earlier ones stay."""
    store.record_trial(trial())
    with Store.open(path, create=False) as cramped:

        def cap(connection: sqlite3.Connection, _record: object) -> None:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages + 2}")

        event.listen(cramped._engine, "connect", cap)
        cramped._engine.dispose()
        large = example.trial("pi5", "fp32", 1, 1, samples=example.spread(50_000_000, 20_011))
        with pytest.raises(ResultsError, match=r"full.*free some space"):
            cramped.record_trial(large)
    assert counts(path) == ONE
    assert store.record_trial(large) is STORED
