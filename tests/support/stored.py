"""A small database of past runs, with figures that one can work out by head."""

from __future__ import annotations

import dataclasses
import itertools
import json
from array import array
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from agent import wire
from results import example
from results.matches import ImageMatches
from results.records import (
    ArtifactRecord,
    BoardRecord,
    EndOfRun,
    EvaluationRecord,
    ImageScoreRecord,
    RunRecord,
    TrialRecord,
)
from results.store import Store

FIRST = "20260101-100000-aaaaaa"
LATEST = "20260102-100000-bbbbbb"
THIRD = "20260103-100000-cccccc"
SAMPLES = 700
BLOCKS = 3
_START = datetime(2026, 1, 1, 10, 0, tzinfo=UTC)
_NO_SOURCES = wire.Sources(temp=None, clock=None, throttled=None, power=None)
_SOURCES = wire.Sources(temp="thermal_zone0", clock="cpufreq", throttled="sysfs", power=None)

LATENCY_MS = {
    ("local", "fp32"): 10.0,
    ("local", "int8_ptq"): 5.0,
    ("pi5", "fp32"): 100.0,
    ("pi5", "int8_ptq"): 120.0,
}
MAP50 = {"fp32": 0.9, "int8_ptq": 0.875}


Evaluate = Callable[[str], EvaluationRecord]
"""What was found with a variant."""


def fill(path: Path, evaluate: Evaluate | None = None, **facts: Any) -> Path:
    """Two runs: FIRST on local and pi5, finished; LATEST on pi5 only, one variant failed.

    `facts` is what pi5 says of itself instead of what a Raspberry Pi 5 does.
    """
    found = evaluate or _evaluation
    with Store.open(path, create=True) as store:
        for variant, digit in (("fp32", "a"), ("int8_ptq", "b")):
            store.record_artifact(_artifact(variant, digit * 64))
        _record(store, found, FIRST, _START, ("local", "pi5"), "finished", facts)
        later = _START + timedelta(days=1)
        _record(store, found, LATEST, later, ("pi5",), "partial", facts, failing="int8_ptq")
    return path


def add_run(
    path: Path,
    experiment: str,
    *boards: str,
    scenario: wire.ScenarioName = "single_stream",
    scale: str | None = None,
    blocks: int = 1,
    **facts: Any,
) -> str:
    """A third, later run of another experiment, or of another scale; its id."""
    told = json.dumps({"experiment": {"scale": scale}})
    with Store.open(path, create=False) as store:
        start = _START + timedelta(days=2)
        run = RunRecord(THIRD, start, experiment, told, "demo", 7, {"cpu_count": 2}, "0.1.0")
        store.record_run(run)
        for board in boards:
            store.record_board(THIRD, _board(board, start, facts))
            for block, (order, variant) in itertools.product(range(blocks), enumerate(MAP50)):
                trial = _trial(THIRD, board, block, order, variant, fails=False)
                store.record_trial(dataclasses.replace(trial, scenario=scenario))
        store.finish_run(THIRD, "finished", start + timedelta(minutes=2))
    return THIRD


def _record(
    store: Store,
    evaluate: Evaluate,
    run_id: str,
    start: datetime,
    boards: tuple[str, ...],
    state: EndOfRun,
    facts: Mapping[str, Any],
    failing: str | None = None,
) -> None:
    store.record_run(RunRecord(run_id, start, "demo", "{}", "demo", 7, {"cpu_count": 2}, "0.1.0"))
    for board in boards:
        store.record_board(run_id, _board(board, start, facts))
        for block in range(BLOCKS):
            for order, variant in enumerate(MAP50):
                fails = variant == failing
                trial = _trial(run_id, board, block, order, variant, fails=fails)
                if not (fails or block):
                    trial = dataclasses.replace(trial, evaluation=evaluate(variant))
                store.record_trial(trial)
    store.finish_run(run_id, state, start + timedelta(minutes=2))


def _trial(
    run_id: str, board: str, block: int, order: int, variant: str, *, fails: bool
) -> TrialRecord:
    digest = {"fp32": "a", "int8_ptq": "b"}[variant] * 64
    image = wire.ImageRef(sha256="c" * 64, image_id="one")
    spec = wire.TrialSpec(
        trial_id=f"{board}-{block}-{variant}",
        run_id=run_id,
        artifact=wire.ArtifactRef(sha256=digest, size_bytes=2_000_000, format="onnx"),
        options=wire.RuntimeOptions(intra_op_num_threads=2 if board == "local" else 4),
        scenario=wire.Scenario(16, 0, SAMPLES, 0, 60_000_000_000),
        inputs=wire.Inputs((image,), wire.ImagePrep(160, 160)),
        deadline_ns=600_000_000_000,
    )
    failure = wire.Failure(wire.FailureKind.OUT_OF_MEMORY, "killed at 0.9 GB") if fails else None
    moment = _START + timedelta(seconds=10 * (2 * block + order))
    return TrialRecord(
        spec=spec,
        board=board,
        model="tinydet",
        variant=variant,
        recipe=variant,
        isa="x86_64-vnni" if board == "local" else "aarch64-dotprod",
        block=block,
        plan_order=2 * block + order,
        scenario="single_stream",
        outcome=_outcome(spec.trial_id, board, failure),
        samples=None if fails else _samples(LATENCY_MS[board, variant], block),
        readings=() if fails else (_reading(board, 0), _reading(board, 1_000_000_000)),
        evaluation=None,
        attempt=1,
        started_utc=moment,
        ended_utc=moment + timedelta(seconds=9),
    )


def _samples(latency_ms: float, block: int) -> wire.Samples:
    """Constant but for a block's own thousandth and a little unrest, so that all is known."""
    base_ns = round(latency_ms * 1e6 * (1 + block / 1000))
    latency = [base_ns + 1000 * (index % 7 - 3) for index in range(17 + SAMPLES)]
    return wire.Samples((1, 16, SAMPLES), array("Q", latency), array("Q", [2000] * len(latency)))


def _outcome(trial_id: str, board: str, failure: wire.Failure | None) -> wire.Outcome:
    return wire.Outcome(
        trial_id=trial_id,
        state="failed" if failure else "finished",
        failure=failure,
        short=False,
        load_ns=None if failure else 50_000_000,
        peak_rss_bytes=100_000_000,
        runtime_version=None if failure else "1.31.1",
        runtime_settings={},
        inputs_kind=None if failure else "images",
        sources=_NO_SOURCES if board == "local" else _SOURCES,
        evaluation=None,
        started_monotonic_ns=0,
        first_call_monotonic_ns=None if failure else 1_000_000_000,
        ended_monotonic_ns=9_000_000_000,
        parts={},
    )


def _reading(board: str, t_ns: int) -> wire.Reading:
    known = board != "local"
    return wire.Reading(
        t_ns=t_ns,
        temp_c=50.0 + t_ns / 1e9 if known else None,
        clock_hz=2_400_000_000 if known else None,
        throttled_bits=0 if known else None,
        memory_available_bytes=1_000_000_000,
        worker_rss_bytes=90_000_000,
        power_w=None,
    )


def _evaluation(variant: str) -> EvaluationRecord:
    value = MAP50[variant]
    return EvaluationRecord(
        "shapes", "val", 64, 7, value, value - 0.25, "board", "hotcoco", "1.3.0", {"disc": value}
    )


def _artifact(variant: str, digest: str) -> ArtifactRecord:
    return ArtifactRecord(
        digest, 2_000_000, "onnx", "tinydet", variant, variant, "x86_64-vnni", None, "{}"
    )


def _board(name: str, start: datetime, facts: Mapping[str, Any]) -> BoardRecord:
    local = name == "local"
    fingerprint = wire.Fingerprint(
        board_model=None if local else "Raspberry Pi 5 Model B",
        serial=None,
        hostname=name,
        machine="x86_64" if local else "aarch64",
        userland_bits=64,
        isa="x86_64-vnni" if local else "aarch64-dotprod",
        cpu_model="cpu",
        cpu_count=2 if local else 4,
        cpu_features=(),
        max_clock_hz=None,
        governor=None,
        memory_bytes=8_000_000_000,
        swap_bytes=0,
        os_name="Debian",
        kernel="6.12",
        libc=None,
        python="3.11.2",
        packages={"onnxruntime": "1.31.1"},
        emulated=False,
        emulated_by=None,
        boot_id=None,
    )
    if not local:
        fingerprint = msgspec.structs.replace(fingerprint, **facts)
    return BoardRecord(name, fingerprint, _NO_SOURCES if local else _SOURCES, 0, 0, start)


def segmented(variant: str) -> EvaluationRecord:
    """Dice of 30 images; INT8 loses 0.02 on each."""
    shift = {"fp32": 0.0, "int8_ptq": -0.02}[variant]
    return example.segmentation(shift, images=30)


def detected(variant: str) -> EvaluationRecord:
    """An object in each of 40 images; FP32 finds 36 of them, INT8 every other one."""
    hit, miss = (0, 0.9, 1023, 0), (0, 0.2, 0, 0)
    right = {k for k in range(40) if k % (10 if variant == "fp32" else 2)}
    return dataclasses.replace(
        _evaluation(variant),
        map50=len(right) / 40,
        map50_95=len(right) / 40,
        per_image=[
            ImageScoreRecord(
                f"{k:03}", matches=ImageMatches({0: 1}, (hit if k in right else miss,))
            )
            for k in range(40)
        ],
    )
