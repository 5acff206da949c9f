"""A tiny made-up run: the database behind the examples of `docs/schema.md`, and for tests."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from agent.wire import (
    ArtifactRef,
    DetectHead,
    Evaluation,
    Fingerprint,
    ImagePrep,
    ImageRef,
    Inputs,
    Outcome,
    Reading,
    RuntimeOptions,
    Samples,
    Scenario,
    Sources,
    TrialSpec,
)
from results.digest import text_digest
from results.records import (
    ArtifactRecord,
    BoardRecord,
    EvaluationRecord,
    ImageScoreRecord,
    RunRecord,
    TrialRecord,
)
from results.store import Store

RUN_ID: Final = "20260101-120000-a1b2"
START: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
BOARDS: Final = {"pi5": "Raspberry Pi 5 Model B Rev 1.0", "virtual-pi": None}
MEDIAN_NS: Final = {"fp32": 50_000_000, "int8_ptq": 30_000_000}
SIZES: Final = {"fp32": 2_400_000, "int8_ptq": 800_000}
MAP50: Final = {"fp32": 0.9, "int8_ptq": 0.89}
DICE_SHIFT: Final = {"fp32": 0.0, "int8_ptq": -0.01}
_SECOND: Final = 10**9
_PREP: Final = ImagePrep(160, 160)


def fill(store: Store) -> None:
    """Store the run: two boards (one emulated), two variants, two blocks.

    Beside them two variants of a segmenter, which only the host has scored.
    """
    store.record_run(run())
    for variant in MEDIAN_NS:
        store.record_artifact(artifact(variant))
    for name, model in BOARDS.items():
        store.record_board(RUN_ID, board(name, model, emulated=model is None))
        for block in range(2):
            for place, variant in enumerate(MEDIAN_NS):
                order = 2 * block + place
                store.record_trial(trial(name, variant, block, order, scored=block == 0))
    for variant, shift in DICE_SHIFT.items():
        unet = dataclasses.replace(
            artifact(variant), sha256=text_digest(f"unet/{variant}"), model="unet"
        )
        store.record_artifact(unet)
        host = dataclasses.replace(segmentation(shift), where="host")
        store.record_evaluation(RUN_ID, unet.sha256, host)
    store.finish_run(RUN_ID, "finished", START + timedelta(minutes=3))


def run(run_id: str = RUN_ID) -> RunRecord:
    """A run of the shipped experiment."""
    return RunRecord(
        run_id=run_id,
        started_utc=START,
        experiment="demo",
        experiment_json='{"experiment": "demo"}',
        profile="quick",
        seed=1,
        host={"hostname": "desk", "cpu_count": 8},
        software_version="0.1.0",
    )


def board(name: str, model: str | None = None, *, emulated: bool = False) -> BoardRecord:
    """A board with a temperature sensor and throttle bits; an emulated one has neither."""
    return BoardRecord(
        name=name,
        fingerprint=Fingerprint(
            board_model=model,
            serial=None,
            hostname=name,
            machine="aarch64",
            userland_bits=64,
            isa="aarch64-dotprod",
            cpu_model="Cortex-A76",
            cpu_count=4,
            cpu_features=("asimddp",),
            max_clock_hz=2_400_000_000,
            governor="ondemand",
            memory_bytes=8 * 2**30,
            swap_bytes=0,
            os_name="Debian GNU/Linux 13",
            kernel="6.12.0",
            libc="2.41",
            python="3.13.5",
            packages={"onnxruntime": "1.31.1"},
            emulated=emulated,
            emulated_by="qemu-user" if emulated else None,
            boot_id=None,
        ),
        sources=sources(emulated=emulated),
        clock_offset_ns=1_767_268_800 * _SECOND,
        hello_monotonic_ns=0,
        hello_utc=START,
    )


def sources(*, emulated: bool = False) -> Sources:
    """Where the example's readings come from."""
    if emulated:
        return Sources(temp=None, clock=None, throttled=None, power=None)
    return Sources(temp="thermal_zone0", clock="cpufreq", throttled="sysfs", power=None)


def artifact(variant: str) -> ArtifactRecord:
    """The file of a variant of `tinydet`."""
    return ArtifactRecord(
        sha256=text_digest(variant),
        size_bytes=SIZES.get(variant, 1_000_000),
        format="onnx",
        model="tinydet",
        variant=variant,
        recipe=variant,
        isa="aarch64-dotprod",
        parent_sha256=None if variant == "fp32" else text_digest("fp32"),
        manifest_json="{}",
    )


def trial(
    board: str,
    variant: str,
    block: int,
    order: int,
    *,
    scored: bool = False,
    samples: Samples | None = None,
) -> TrialRecord:
    """A finished trial; `scored` gives it an evaluation, as its first block has."""
    emulated = BOARDS.get(board, "") is None
    median_ns = MEDIAN_NS.get(variant, 40_000_000) * (20 if emulated else 1) + block * 500_000
    started = START + timedelta(seconds=20 * order)
    spec = _spec(f"{board}-{order:03}", variant, scored=scored)
    return TrialRecord(
        spec=spec,
        board=board,
        model="tinydet",
        variant=variant,
        recipe=variant,
        isa="aarch64-dotprod",
        block=block,
        plan_order=order,
        scenario="single_stream",
        outcome=_outcome(spec.trial_id, order, emulated=emulated),
        samples=samples or spread(median_ns, 200),
        readings=[_reading(order, second, emulated=emulated) for second in range(3)],
        evaluation=evaluation(MAP50.get(variant, 0.5)) if scored else None,
        attempt=1,
        started_utc=started,
        ended_utc=started + timedelta(seconds=15),
    )


def spread(median_ns: int, count: int, *, step_ns: int = 1_000) -> Samples:
    """A cold start at thrice the median, two warm-ups, then `count` samples.

    The samples are median_ns + k * step_ns for k from -count/2 on, in a stirred order.
    """
    stirred = [median_ns + step_ns * (k * 37 % count - (count - 1) // 2) for k in range(count)]
    return timed([3 * median_ns], [2 * median_ns, median_ns], stirred)


def timed(cold: Sequence[int], warmup: Sequence[int], sampled: Sequence[int]) -> Samples:
    """Samples of the three phases by their latencies (ns), 2 us apart."""
    latency = array("Q", [*cold, *warmup, *sampled])
    gaps = array("Q", [0] + [2_000] * (len(latency) - 1)) if latency else array("Q")
    return Samples((len(cold), len(warmup), len(sampled)), latency, gaps)


def evaluation(map50: float | None = 0.9) -> EvaluationRecord:
    """Accuracy on a subset of the procedural set, inferred on a board."""
    return EvaluationRecord(
        set_name="shapes",
        split="val",
        images=64,
        subset_seed=1,
        map50=map50,
        map50_95=None if map50 is None else max(0.0, round(map50 - 0.2, 3)),
        where="board",
        evaluator="hotcoco",
        evaluator_version="1.3.0",
        per_class={"disc": 0.9} if map50 else {},
    )


def segmentation(shift: float = 0.0, images: int = 24) -> EvaluationRecord:
    """Accuracy of masks, made up: Dice of image k is 0.5 + k / 100 + `shift`."""
    dice = [0.5 + k / 100 + shift for k in range(images)]
    return EvaluationRecord(
        set_name="blobs",
        split="val",
        images=images,
        subset_seed=1,
        map50=None,
        map50_95=None,
        where="board",
        evaluator="overlap",
        evaluator_version="1",
        per_class={"blob": 0.5 + shift},
        dice=sum(dice) / images,
        iou=0.5 + shift,
        per_image=[ImageScoreRecord(f"val_{k:05}", dice=value) for k, value in enumerate(dice)],
    )


def _spec(trial_id: str, variant: str, *, scored: bool) -> TrialSpec:
    image = ImageRef(text_digest("image"), "000001")
    head = DetectHead("yolo_v8", 6)
    return TrialSpec(
        trial_id=trial_id,
        run_id=RUN_ID,
        artifact=ArtifactRef(text_digest(variant), SIZES.get(variant, 1_000_000), "onnx"),
        options=RuntimeOptions(intra_op_num_threads=4),
        scenario=Scenario(2, 0, 128, 0, 60 * _SECOND),
        inputs=Inputs(images=(image,), prep=_PREP),
        deadline_ns=120 * _SECOND,
        evaluation=Evaluation((image,), _PREP, head, 30 * _SECOND) if scored else None,
    )


def _outcome(trial_id: str, order: int, *, emulated: bool) -> Outcome:
    start_ns = 20 * _SECOND * order
    return Outcome(
        trial_id=trial_id,
        state="finished",
        failure=None,
        short=False,
        load_ns=80_000_000,
        peak_rss_bytes=120 * 2**20,
        runtime_version="1.31.1",
        runtime_settings={"session.intra_op.allow_spinning": "1"},
        inputs_kind="images",
        sources=sources(emulated=emulated),
        evaluation=None,
        started_monotonic_ns=start_ns,
        first_call_monotonic_ns=start_ns + _SECOND // 2,
        ended_monotonic_ns=start_ns + 15 * _SECOND,
        parts={},
    )


def _reading(order: int, second: int, *, emulated: bool) -> Reading:
    return Reading(
        t_ns=(20 * order + second) * _SECOND,
        temp_c=None if emulated else 50.0 + order + second,
        clock_hz=None if emulated else 2_400_000_000,
        throttled_bits=None if emulated else 0,
        memory_available_bytes=6 * 2**30,
        worker_rss_bytes=110 * 2**20,
        power_w=None,
    )
