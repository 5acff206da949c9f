from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import msgspec
import pytest

from agent.wire import ImagePrep, Reading, Samples
from results import example
from results.compare import Verdict, compare
from results.errors import QueryError, UnknownRun
from results.matches import ImageMatches
from results.records import EvaluationRecord, ImageScoreRecord, TrialRecord
from results.sides import Selector
from results.store import Store

MS = 1_000_000
INT8, FP32 = Selector(variant="int8_ptq"), Selector(variant="fp32")
Change = Callable[[TrialRecord], TrialRecord]


def flat(latency_ms: float) -> Samples:
    return example.timed([], [], [round(latency_ms * MS)] * 150)


def unchanged(record: TrialRecord) -> TrialRecord:
    return record


def put(
    store: Store,
    variant: str,
    latencies_ms: list[float],
    change: Change = unchanged,
    board: str = "pi5",
    run_id: str = example.RUN_ID,
) -> None:
    """Store one finished trial a block; the orders of variants do not collide."""
    first = {"fp32": 0, "int8_ptq": 100}[variant]
    for block, ms in enumerate(latencies_ms):
        record = example.trial(board, variant, block, first + block, scored=True, samples=flat(ms))
        record = dataclasses.replace(
            record, spec=msgspec.structs.replace(record.spec, run_id=run_id)
        )
        store.record_trial(change(record))


def kinds(verdict: Verdict) -> list[str]:
    return [reason.kind for reason in verdict.latency_reasons]


def spec(**changes: object) -> Change:
    return lambda record: dataclasses.replace(
        record, spec=msgspec.structs.replace(record.spec, **changes)
    )


def outcome(**changes: object) -> Change:
    return lambda record: dataclasses.replace(
        record, outcome=msgspec.structs.replace(record.outcome, **changes)
    )


def options(**changes: object) -> Change:
    return lambda record: spec(options=msgspec.structs.replace(record.spec.options, **changes))(
        record
    )


def throttled(record: TrialRecord) -> TrialRecord:
    readings = [Reading(t, 80.0, None, bits, None, None, None) for t, bits in ((0, 0), (1, 4))]
    return dataclasses.replace(record, readings=readings)


def test_a_faster_variant_is_found_faster(store: Store) -> None:
    """On one board, paired by block: the effect, its interval and a plain sentence."""
    put(store, "fp32", [50, 51, 52, 50])
    put(store, "int8_ptq", [30, 30.7, 31.1, 29.9])
    verdict = compare(store, INT8, FP32)
    assert verdict.latency is not None
    assert verdict.latency_reasons == ()
    assert verdict.latency.value == pytest.approx(0.6, abs=0.003)
    assert (verdict.latency.blocks, verdict.latency.method) == (4, "paired blocks")
    assert "A is faster: A takes 0.6" in verdict.text
    assert "4 paired blocks" in verdict.text
    other = compare(store, FP32, INT8)
    assert "A is slower" in other.text
    assert other.latency is not None
    assert other.latency.value == pytest.approx(1 / verdict.latency.value)


def test_noise_is_no_difference(store: Store) -> None:
    """Where the interval holds 1, no difference is claimed."""
    put(store, "fp32", [50, 52, 49])
    put(store, "int8_ptq", [51, 50, 50])
    assert "no difference shown" in compare(store, INT8, FP32).text


def test_accuracy_on_the_same_images_is_compared(store: Store) -> None:
    """The difference in mAP is given with the set, the number of images and the evaluator."""
    put(store, "fp32", [50, 50])
    put(store, "int8_ptq", [30, 30])
    accuracy = compare(store, INT8, FP32).accuracy
    assert accuracy is not None
    assert accuracy.map50 == pytest.approx(-0.01)
    assert accuracy.map50_95 == pytest.approx(-0.01)
    assert accuracy.on == "shapes/val, 64 images (seed 1), hotcoco 1.3.0"


def evaluated(evaluation: EvaluationRecord) -> Change:
    return lambda record: dataclasses.replace(
        record, evaluation=evaluation if record.block == 0 else None
    )


def detected(right: int, images: int = 30, first: int = 0) -> EvaluationRecord:
    """One object an image, found in the first `right` of them."""
    hit, miss = (0, 0.9, 1023, 0), (0, 0.2, 0, 0)
    return dataclasses.replace(
        example.evaluation(round(right / images, 3)),
        per_image=[
            ImageScoreRecord(f"{k:03}", matches=ImageMatches({0: 1}, (hit if k < right else miss,)))
            for k in range(first, first + images)
        ],
    )


def test_masks_are_compared_with_an_interval_over_images(store: Store) -> None:
    """A Dice that is lower by the same amount on each image is shown to differ, in words too."""
    put(store, "fp32", [50, 50], evaluated(example.segmentation()))
    put(store, "int8_ptq", [30, 30], evaluated(example.segmentation(-0.02)))
    verdict = compare(store, INT8, FP32)
    assert verdict.accuracy is not None
    assert (verdict.accuracy.map50, verdict.accuracy.no_interval) == (None, "")
    assert verdict.accuracy.dice == pytest.approx(-0.02)
    found = verdict.accuracy.intervals["dice"]
    assert (found.low, found.high) == pytest.approx((-0.02, -0.02))
    assert "Dice -0.0200 (-0.0200 to -0.0200), IoU -0.0200 on blobs/val, 24" in verdict.text
    assert verdict.as_dict()["accuracy"]["intervals"]["dice"] == {
        "low": found.low, "high": found.high,
    }  # fmt: skip


def test_detections_are_compared_with_an_interval_over_images(store: Store) -> None:
    """Of two detectors the interval of each mAP is given, and pairs what both found."""
    put(store, "fp32", [50, 50], evaluated(detected(25)))
    put(store, "int8_ptq", [30, 30], evaluated(detected(15)))
    verdict = compare(store, INT8, FP32)
    assert verdict.accuracy is not None
    assert set(verdict.accuracy.intervals) == {"map50", "map50_95"}
    interval = verdict.accuracy.intervals["map50"]
    assert -0.6 < interval.low < -10 / 30 < interval.high < -0.1
    assert "in brackets 95 % over images, paired" in verdict.text


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (detected(25, first=1), "the images are not the same"),
        (dataclasses.replace(detected(25), per_image=()), "scores of single images are not stored"),
    ],
)
def test_images_that_do_not_pair_have_no_interval(
    store: Store, other: EvaluationRecord, why: str
) -> None:
    """The difference stands, without an interval and with the reason."""
    put(store, "fp32", [50, 50], evaluated(detected(25)))
    put(store, "int8_ptq", [30, 30], evaluated(other))
    verdict = compare(store, INT8, FP32)
    assert verdict.accuracy is not None
    assert verdict.accuracy.map50 == pytest.approx(0.0)
    assert (verdict.accuracy.intervals, verdict.accuracy.no_interval) == ({}, why)
    assert f"no interval: {why}" in verdict.text


def test_too_few_images_have_no_interval(store: Store) -> None:
    """Below twenty images the reason is their number."""
    put(store, "fp32", [50, 50], evaluated(example.segmentation(images=19)))
    put(store, "int8_ptq", [30, 30], evaluated(example.segmentation(-0.1, images=19)))
    accuracy = compare(store, INT8, FP32).accuracy
    assert accuracy is not None
    assert accuracy.no_interval == "19 images where 20 are needed"


@pytest.mark.parametrize(
    "change",
    [{"images": 32}, {"set_name": "voc"}, {"split": "test"}, {"subset_seed": 2},
     {"subset_seed": None}, {"evaluator": "other"}, {"evaluator_version": "2"}],
)  # fmt: skip
def test_accuracy_on_other_images_is_not_compared(store: Store, change: dict[str, object]) -> None:
    """Another set, count, seed or evaluator: not comparable, and latency still is."""

    def scored(record: TrialRecord) -> TrialRecord:
        assert record.evaluation is not None
        return dataclasses.replace(
            record,
            evaluation=dataclasses.replace(record.evaluation, **change),  # type: ignore[arg-type]
        )

    put(store, "fp32", [50, 51], scored)
    put(store, "int8_ptq", [30, 31])
    verdict = compare(store, INT8, FP32)
    assert verdict.accuracy is None
    assert [reason.kind for reason in verdict.accuracy_reasons] == ["eval_set"]
    assert "accuracy: not comparable because the sets differ" in verdict.text
    assert verdict.latency is not None


def test_a_missing_accuracy_is_named(store: Store) -> None:
    """Without a score on one side, that side is named."""
    put(store, "fp32", [50, 51], lambda record: dataclasses.replace(record, evaluation=None))
    put(store, "int8_ptq", [30, 31])
    reasons = compare(store, INT8, FP32).accuracy_reasons
    assert [reason.message for reason in reasons] == ["B has no accuracy figure"]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("threads", options(intra_op_num_threads=1)),
        ("options", options(allow_spinning=False)),
        ("runtime_version", outcome(runtime_version="1.30.0")),
        ("scenario", lambda record: dataclasses.replace(record, scenario="sustained")),
        ("model", lambda record: dataclasses.replace(record, model="yolov8n")),
        ("inputs", outcome(inputs_kind="synthetic")),
        ("inputs", lambda record: spec(
            inputs=msgspec.structs.replace(record.spec.inputs, prep=ImagePrep(320, 320)))(record)),
    ],
)  # fmt: skip
def test_other_conditions_are_not_comparable(store: Store, kind: str, change: Change) -> None:
    """A difference in conditions is refused by name, unless it is what the question is about."""
    put(store, "fp32", [50, 51], change)
    put(store, "int8_ptq", [30, 31])
    verdict = compare(store, INT8, FP32)
    assert verdict.latency is None
    assert kind in kinds(verdict)
    assert f"not comparable because {kind} differs" in verdict.text
    allowed = compare(store, INT8, FP32, across=kinds(verdict))
    assert allowed.latency is not None


def test_two_runtimes_are_compared_and_named(store: Store) -> None:
    """Versions of two runtimes need not agree; the verdict says what ran each side."""
    put(store, "fp32", [50, 51])
    eager = outcome(runtime_version="2.10.0")
    put(store, "int8_ptq", [30, 31], lambda record: eager(spec(runtime="torch")(record)))
    verdict = compare(store, INT8, FP32)
    assert verdict.latency is not None
    assert "A: ran by torch 2.10.0, B by onnxruntime 1.31.1" in verdict.text


def test_a_throttled_trial_is_not_comparable(store: Store) -> None:
    """Speed measured while the board held itself back is no speed of the variant."""
    put(store, "fp32", [50, 51])
    put(store, "int8_ptq", [30, 31], throttled)
    verdict = compare(store, INT8, FP32)
    assert kinds(verdict) == ["throttled"]
    assert "A ran while its board was held back (throttled)" in verdict.text


def test_emulated_boards_are_not_comparable(store: Store) -> None:
    """Speed on an emulated board is compared with nothing, not even with itself."""
    for board in ("pi5", "virtual-pi"):
        put(store, "fp32", [50, 51], board=board)
        put(store, "int8_ptq", [30, 31], board=board)
    virtual = Selector(board="virtual-pi", variant="fp32")
    assert kinds(compare(store, virtual, Selector(board="pi5", variant="fp32"))) == ["emulated"]
    both = compare(store, virtual, Selector(board="virtual-pi", variant="int8_ptq"))
    assert kinds(both) == ["emulated", "emulated"]
    assert both.accuracy is not None


@pytest.mark.parametrize("blocks", [0, 1])
def test_fewer_than_two_common_blocks_are_not_enough(store: Store, blocks: int) -> None:
    """One block, or none in common, gives no interval and so no verdict."""
    put(store, "fp32", [50, 51])
    for block in range(blocks):
        store.record_trial(example.trial("pi5", "int8_ptq", block, 100))
    store.record_trial(example.trial("pi5", "int8_ptq", 9, 109))
    verdict = compare(store, INT8, FP32)
    assert kinds(verdict) == ["blocks"]
    assert f"{blocks} blocks in common" in verdict.text


def test_the_same_trials_are_not_compared(store: Store) -> None:
    """A group against itself is a mistake, and said to be one."""
    put(store, "fp32", [50, 51])
    assert kinds(compare(store, FP32, FP32)) == ["same"]


def test_runs_and_boards_are_compared_unpaired(store: Store) -> None:
    """Between runs and between boards nothing is paired: Welch's interval is used."""
    store.record_run(example.run("second"))
    store.record_board("second", example.board("pi5", example.BOARDS["pi5"]))
    store.record_board(example.RUN_ID, example.board("pi4", "Raspberry Pi 4 Model B"))
    put(store, "fp32", [50, 51, 50.5])
    put(store, "fp32", [55, 56], run_id="second")
    put(store, "fp32", [100, 101, 99], board="pi4")
    runs = compare(store, Selector(run="second"), Selector(run=example.RUN_ID, board="pi5"))
    assert runs.latency is not None
    assert (runs.latency.method, runs.latency.blocks) == ("unpaired blocks", 2)
    assert runs.latency.value == pytest.approx(1.0990, abs=1e-3)
    pi4, pi5 = (Selector(run=example.RUN_ID, board=name) for name in ("pi4", "pi5"))
    boards = compare(store, pi4, pi5)
    assert boards.latency is not None
    assert boards.latency.method == "unpaired blocks"


def test_what_a_reader_must_know_is_noted(store: Store) -> None:
    """Short trials, no steady state and a board that cannot say if it throttled are noted."""
    mute = [Reading(0, None, None, None, None, None, None)]

    def cut_short(record: TrialRecord) -> TrialRecord:
        return dataclasses.replace(outcome(short=True)(record), readings=mute)

    def brief(record: TrialRecord) -> TrialRecord:
        return dataclasses.replace(record, samples=example.timed([], [], [30 * MS] * 20))

    put(store, "fp32", [50, 51], cut_short)
    put(store, "int8_ptq", [30, 31], brief)
    notes = compare(store, INT8, FP32).notes
    assert notes == (
        "A: 2 of 2 trials reached no steady state",
        "B: 2 of 2 trials were ended by the time cap",
        "B: pi5 cannot say whether it was throttled",
    )


def test_a_selector_must_mean_one_group(store: Store) -> None:
    """Nothing, or more than one group, is an error that lists what there is."""
    put(store, "fp32", [50])
    put(store, "int8_ptq", [30])
    with pytest.raises(UnknownRun, match=r"no condition fits no single group.*variant=int8_ptq"):
        compare(store, Selector(), FP32)
    with pytest.raises(UnknownRun, match=r"board=pi3b fits no single group.*board=pi5"):
        compare(store, Selector(board="pi3b"), FP32)
    with pytest.raises(UnknownRun, match="has no finished trial"):
        compare(store, Selector(run="nope"), FP32)


def test_selectors_are_written_as_text() -> None:
    """name=value pairs become a selector; anything else is refused with the names."""
    assert Selector.parse("board=pi5, variant=int8_ptq,threads=4") == Selector(
        board="pi5", variant="int8_ptq", threads=4
    )
    assert Selector.parse("") == Selector()
    for text in ("pi5", "bord=pi5", "board=", "board=a,board=b", "threads=four"):
        with pytest.raises(QueryError, match="threads"):
            Selector.parse(text)


def test_an_unknown_name_in_across_is_refused(store: Store) -> None:
    """A misspelt allowance is an error, not silently ignored."""
    with pytest.raises(QueryError, match=r"treads.*known are model"):
        compare(store, INT8, FP32, across=["treads"])


def test_a_verdict_is_plain_data(store: Store) -> None:
    """The whole verdict goes through JSON."""
    put(store, "fp32", [50, 51])
    put(store, "int8_ptq", [30, 31])
    data = json.loads(json.dumps(compare(store, INT8, FP32).as_dict()))
    assert data["a"]["variant"] == "int8_ptq"
    assert data["latency"]["method"] == "paired blocks"
    assert data["latency_reasons"] == []
    assert data["text"].startswith("A: tinydet/int8_ptq on pi5")
