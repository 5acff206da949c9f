from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from agent.wire import Failure, FailureKind, Reading, Samples
from results import example
from results.queries import leaderboard
from results.records import TrialRecord
from results.store import Store

MS = 1_000_000


def trial(
    variant: str, block: int, order: int, samples: Samples | None = None, **changes: object
) -> TrialRecord:
    record = example.trial("pi5", variant, block, order, samples=samples)
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def flat(latency_ms: int, count: int = 10) -> Samples:
    return example.timed([5 * MS], [4 * MS], [latency_ms * MS] * count)


def failed(record: TrialRecord) -> TrialRecord:
    failure = Failure(FailureKind.DEADLINE, "took 120 s")
    outcome = msgspec.structs.replace(record.outcome, state="failed", failure=failure)
    return dataclasses.replace(record, outcome=outcome)


def short(record: TrialRecord) -> TrialRecord:
    outcome = msgspec.structs.replace(record.outcome, short=True)
    return dataclasses.replace(record, outcome=outcome)


def read(bits: int | None, temp_c: float | None, t_ns: int = 0) -> Reading:
    return Reading(t_ns, temp_c, None, bits, None, None, None)


def one(store: Store, view: str, where: str = "1 = 1") -> dict[str, Any]:
    (row,) = store.rows(f"SELECT * FROM {view} WHERE {where}")  # noqa: S608
    return dict(row)


def test_a_row_of_v_trials_by_hand(store: Store) -> None:
    """Every figure of a trial is in its row, in the units that the names say."""
    samples = example.timed([90 * MS], [70 * MS, 60 * MS], [10 * MS, 20 * MS, 30 * MS, 40 * MS])
    readings = [read(0, 50.0), read(4, 55.5), read(None, None)]
    store.record_trial(
        trial("fp32", 3, 7, samples, readings=readings, evaluation=example.evaluation(0.75))
    )
    row = one(store, "v_trials")
    expected = {
        "run_id": example.RUN_ID, "board": "pi5", "board_model": example.BOARDS["pi5"],
        "emulated": 0, "model": "tinydet", "variant": "fp32", "recipe": "fp32",
        "isa": "aarch64-dotprod", "scenario": "single_stream", "threads": 4, "block": 3,
        "plan_order": 7, "state": "finished", "short": 0, "n": 4, "p50_ms": 20.0, "p90_ms": None,
        "p99_ms": None, "fps": 40.0, "steady_from": None, "map50": 0.75, "map50_95": 0.55,
        "dice": None, "iou": None, "evaluation_no": 1,
        "eval_set": "shapes", "eval_split": "val", "eval_images": 64, "eval_seed": 1,
        "evaluator": "hotcoco 1.3.0", "eval_place": "board", "temp_start_c": 50.0,
        "temp_max_c": 55.5, "clock_min_hz": None, "throttled": 4, "power_mean_w": None,
        "size_bytes": 2_400_000, "load_ms": 80.0, "cold_ms": 90.0,
        "peak_rss_bytes": 120 * 2**20, "runtime": "onnxruntime",
        "runtime_version": "1.31.1", "inputs_kind": "images",
        "started_utc": "2026-01-01T12:02:20.000000Z", "failure": None, "attempt": 1,
        "trial_id": "pi5-007", "trial_no": 1,
        "artifact_sha256": example.artifact("fp32").sha256,
    }  # fmt: skip
    assert row | expected == row
    assert row["cv"] == pytest.approx(0.5164, abs=1e-4)
    assert "128 are needed" in row["steady_note"]
    assert row.keys() - expected.keys() == {"cv", "steady_note"}


def test_a_failed_trial_has_a_row_without_figures(store: Store) -> None:
    """A trial that failed before sampling is listed with its reason and NULL figures."""
    store.record_trial(failed(dataclasses.replace(trial("fp32", 0, 0), samples=None, readings=[])))
    row = one(store, "v_trials")
    assert (row["state"], row["failure"]) == ("failed", "deadline: took 120 s")
    assert (row["n"], row["p50_ms"], row["fps"], row["temp_max_c"]) == (0, None, None, None)


def test_medians_are_over_trials(store: Store) -> None:
    """The leaderboard's p50 is the median of the trials' p50s: odd and even counts."""
    for order, ms in enumerate((40, 10, 90)):
        store.record_trial(trial("fp32", order, order, flat(ms)))
    assert one(store, "v_leaderboard")["p50_ms"] == 40.0
    store.record_trial(trial("fp32", 3, 3, flat(20)))
    row = one(store, "v_leaderboard")
    assert (row["p50_ms"], row["trials"], row["blocks"], row["n"]) == (30.0, 4, 4, 40)
    assert row["fps"] == pytest.approx((50 + 25) / 2)


def test_a_tail_percentile_is_the_median_of_those_known(store: Store) -> None:
    """Trials with too few samples for p90 do not make it zero, nor hide the others'."""
    store.record_trial(trial("fp32", 0, 0, flat(10, 10)))
    assert one(store, "v_leaderboard")["p90_ms"] is None
    store.record_trial(trial("fp32", 1, 1, flat(20, 64)))
    store.record_trial(trial("fp32", 2, 2, flat(30, 64)))
    row = one(store, "v_leaderboard")
    assert (row["p50_ms"], row["p90_ms"], row["p99_ms"]) == (20.0, 25.0, None)


def test_only_finished_trials_bring_figures(store: Store) -> None:
    """Failed trials are counted as unfinished; their samples, heat and scores do not enter."""
    store.record_trial(trial("fp32", 0, 0, flat(10), readings=[read(0, 40.0)]))
    bad = failed(trial("fp32", 1, 1, flat(90), readings=[read(4, 99.0)]))
    store.record_trial(dataclasses.replace(bad, evaluation=example.evaluation(0.1)))
    row = one(store, "v_leaderboard")
    assert (row["trials"], row["unfinished"], row["blocks"], row["n"]) == (1, 1, 1, 10)
    assert (row["p50_ms"], row["temp_max_c"]) == (10.0, 40.0)
    assert (row["throttled"], row["map50"]) == (0, None)


def test_a_retried_trial_counts_once(store: Store) -> None:
    """A trial whose second attempt finished is one finished trial, and none unfinished."""
    store.record_trial(failed(trial("fp32", 0, 0, flat(90))))
    store.record_trial(trial("fp32", 0, 0, flat(10), attempt=2))
    row = one(store, "v_leaderboard")
    assert (row["trials"], row["unfinished"], row["p50_ms"]) == (1, 0, 10.0)


def test_a_variant_that_never_finished_is_listed(store: Store) -> None:
    """A variant with failed trials only has a row with NULL figures and no rank."""
    store.record_trial(failed(trial("fp32", 0, 0, flat(90))))
    row = one(store, "v_leaderboard")
    assert (row["trials"], row["unfinished"], row["n"]) == (0, 1, 0)
    assert (row["p50_ms"], row["rank"], row["ratio_to_fp32"]) == (None, None, None)


def test_ratios_and_ranks_by_hand(store: Store) -> None:
    """The ratio is p50 over fp32's on the same board; ranks order a run's boards and variants."""
    for order, (variant, ms) in enumerate((("fp32", 40), ("int8_ptq", 10), ("ort_format", 60))):
        store.record_trial(trial(variant, 0, order, flat(ms)))
    rows = store.rows("SELECT variant, rank, ratio_to_fp32 FROM v_leaderboard ORDER BY rank")
    assert [tuple(row.values()) for row in rows] == [
        ("int8_ptq", 1, 0.25),
        ("fp32", 2, 1.0),
        ("ort_format", 3, 1.5),
    ]


def test_without_fp32_there_is_no_ratio(store: Store) -> None:
    """A run without the baseline has NULL ratios, and is ranked all the same."""
    store.record_trial(trial("int8_ptq", 0, 0, flat(10)))
    row = one(store, "v_leaderboard")
    assert (row["rank"], row["ratio_to_fp32"]) == (1, None)


def test_with_two_baselines_there_is_no_ratio(store: Store) -> None:
    """Where two files are called fp32, neither view nor table picks one to compare with."""
    other = trial("fp32", 0, 0, flat(20))
    file = msgspec.structs.replace(
        other.spec.artifact, sha256=example.artifact("ort_format").sha256
    )
    store.record_trial(
        dataclasses.replace(other, spec=msgspec.structs.replace(other.spec, artifact=file))
    )
    store.record_trial(trial("fp32", 0, 1, flat(10)))
    store.record_trial(trial("int8_ptq", 0, 2, flat(5)))
    assert one(store, "v_leaderboard", "variant = 'int8_ptq'")["ratio_to_fp32"] is None
    assert [row.ratio for row in leaderboard(store, example.RUN_ID)] == [None, None, None]


def test_a_baseline_has_the_same_threads(store: Store) -> None:
    """A ratio is only to fp32 with the same number of threads."""
    base = trial("fp32", 0, 0, flat(10))
    options = msgspec.structs.replace(base.spec.options, intra_op_num_threads=1)
    store.record_trial(
        dataclasses.replace(base, spec=msgspec.structs.replace(base.spec, options=options))
    )
    store.record_trial(trial("int8_ptq", 0, 1, flat(5)))
    assert one(store, "v_leaderboard", "variant = 'int8_ptq'")["ratio_to_fp32"] is None


def test_scenarios_are_never_mixed(store: Store) -> None:
    """Trials of two scenarios make two rows, and neither is the other's baseline or rival."""
    store.record_trial(trial("fp32", 0, 0, flat(40)))
    for order, (variant, latency_ms) in enumerate((("fp32", 60), ("int8_ptq", 30)), start=1):
        record = trial(variant, 0, order, flat(latency_ms), scenario="sustained")
        store.record_trial(record)
    rows = store.rows("SELECT * FROM v_leaderboard ORDER BY scenario, p50_ms")
    assert [
        (row["scenario"], row["variant"], row["p50_ms"], row["ratio_to_fp32"], row["rank"])
        for row in rows
    ] == [
        ("single_stream", "fp32", 40.0, 1.0, 1),
        ("sustained", "int8_ptq", 30.0, 0.5, 1),
        ("sustained", "fp32", 60.0, 1.0, 2),
    ]
    sustained = {row.variant: row for row in leaderboard(store, example.RUN_ID) if row.ratio}
    assert sustained["int8_ptq"].ratio is not None
    assert sustained["int8_ptq"].ratio.value == 0.5


def test_emulated_boards_are_flagged_and_never_ranked(store: Store) -> None:
    """An emulated board is listed with its figures, and takes nobody's rank."""
    store.record_trial(trial("fp32", 0, 0, flat(40)))
    fast = example.trial("virtual-pi", "fp32", 0, 0, samples=flat(1))
    store.record_trial(fast)
    rows = store.rows("SELECT board, emulated, rank, p50_ms FROM v_leaderboard ORDER BY board")
    assert [tuple(row.values()) for row in rows] == [
        ("pi5", 0, 1, 40.0),
        ("virtual-pi", 1, None, 1.0),
    ]


def test_a_group_is_not_lost_where_the_model_is_unknown(store: Store) -> None:
    """A board that does not say what it is has its row, with NULL for its model."""
    store.record_trial(example.trial("virtual-pi", "fp32", 0, 0))
    assert one(store, "v_leaderboard")["board_model"] is None


def test_throttle_bits_add_up_over_trials(store: Store) -> None:
    """The bits of all finished trials are combined; unknown ones do not make them unknown."""
    for order, bits in enumerate((1, None, 4, 5)):
        readings = [read(0 if bits is not None else None, 50.0), read(bits, 50.0 + order)]
        store.record_trial(trial("fp32", order, order, flat(10), readings=readings))
    row = one(store, "v_leaderboard")
    assert (row["throttled"], row["temp_max_c"]) == (5, 53.0)


def test_boards_without_sensors_have_null_not_zero(store: Store) -> None:
    """Temperature and throttling of a board that cannot say are NULL in both views."""
    store.record_trial(example.trial("virtual-pi", "fp32", 0, 0))
    for view in ("v_trials", "v_leaderboard"):
        row = one(store, view)
        assert (row["temp_max_c"], row["throttled"]) == (None, None)


def test_short_trials_are_counted(store: Store) -> None:
    """Trials that the time cap ended are in the figures and counted."""
    store.record_trial(trial("fp32", 0, 0, flat(10)))
    store.record_trial(short(trial("fp32", 1, 1, flat(10))))
    row = one(store, "v_leaderboard")
    assert (row["trials"], row["short_trials"]) == (2, 1)


def test_a_variant_is_scored_by_the_evaluation_over_most_images(store: Store) -> None:
    """Of a variant's trials, the one that was scored over most images speaks for it."""
    for order, (images, map50) in enumerate(((10, 0.5), (64, 0.75), (64, 0.8), (None, None))):
        evaluation = None
        if images is not None:
            evaluation = dataclasses.replace(example.evaluation(map50), images=images)
        store.record_trial(trial("fp32", order, order, flat(10), evaluation=evaluation))
    row = one(store, "v_leaderboard")
    assert (row["map50"], row["eval_images"], row["eval_set"]) == (0.75, 64, "shapes")


def test_an_evaluation_without_a_figure_stays_null(store: Store) -> None:
    """A set that allows no figure leaves mAP NULL, and the set is still named."""
    store.record_trial(trial("fp32", 0, 0, flat(10), evaluation=example.evaluation(None)))
    row = one(store, "v_leaderboard")
    assert (row["map50"], row["map50_95"], row["eval_images"]) == (None, None, 64)


def test_the_hosts_evaluation_stands_in(store: Store) -> None:
    """A file that only the host scored has that figure, named so; the board's own goes first."""
    digest = example.artifact("fp32").sha256
    for images, map50 in ((500, 0.6), (100, 0.9)):
        host = dataclasses.replace(
            example.evaluation(map50), where="host", images=images, subset_seed=None
        )
        store.record_evaluation(example.RUN_ID, digest, host)
    store.record_trial(trial("fp32", 0, 0, flat(10)))
    for view in ("v_trials", "v_leaderboard"):
        row = one(store, view)
        assert (row["map50"], row["eval_images"], row["eval_place"]) == (0.6, 500, "host")
        assert row["eval_seed"] is None
    store.record_trial(trial("fp32", 1, 1, flat(10), evaluation=example.evaluation(0.7)))
    assert one(store, "v_trials", "block = 1")["map50"] == 0.7
    row = one(store, "v_leaderboard")
    assert (row["map50"], row["eval_images"], row["eval_place"]) == (0.7, 64, "board")


def test_runs_do_not_mix(store: Store) -> None:
    """The same variant in two runs has a row in each, with its own rank and ratio."""
    store.record_run(example.run("second"))
    store.record_board("second", example.board("pi5", example.BOARDS["pi5"]))
    for run_id, ms in ((example.RUN_ID, 10), ("second", 30)):
        record = trial("fp32", 0, 0, flat(ms))
        spec = msgspec.structs.replace(record.spec, run_id=run_id)
        store.record_trial(dataclasses.replace(record, spec=spec))
    rows = store.rows("SELECT p50_ms, rank, ratio_to_fp32 FROM v_leaderboard ORDER BY p50_ms")
    assert [tuple(row.values()) for row in rows] == [(10.0, 1, 1.0), (30.0, 1, 1.0)]


def test_images_of_boards_and_of_the_host_are_told_apart(store: Store) -> None:
    """Each image of each evaluation has a row, with its variant's labels and its board, if any."""
    digest = example.artifact("int8_ptq").sha256
    host = dataclasses.replace(example.segmentation(-0.1, images=3), where="host")
    store.record_evaluation(example.RUN_ID, digest, host)
    record = example.trial("pi5", "fp32", 0, 0)
    store.record_trial(dataclasses.replace(record, evaluation=example.segmentation(images=2)))
    rows = store.rows("SELECT * FROM v_image_scores ORDER BY evaluation_no, place")
    assert [(row["board"], row["variant"], row["image_id"]) for row in rows] == [
        *((None, "int8_ptq", f"val_{k:05}") for k in range(3)),
        *(("pi5", "fp32", f"val_{k:05}") for k in range(2)),
    ]
    assert [row["dice"] for row in rows] == pytest.approx([0.4, 0.41, 0.42, 0.5, 0.51])
    assert {(row["eval_set"], row["eval_split"], row["matches_json"]) for row in rows} == {
        ("blobs", "val", None)
    }
