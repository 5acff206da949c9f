"""Bars of builds, from what builds say."""

from __future__ import annotations

import io

from rich.console import Console

from orchestrator.buildprogress import Builds


def heard(*lines: str) -> Builds:
    builds = Builds()
    builds.begin({"net/qat for x86_64": 3, "net/fp32 for x86_64": 1, "old/fp32 for x86_64": 0})
    for line in lines:
        builds.hear(line)
    return builds


def drawn(builds: Builds, rows: int = 6) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(builds.table(rows))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_bar_follows_the_steps() -> None:
    """Each step that begins counts, and an epoch is its share of the step."""
    builds = heard(
        "net/qat for x86_64: step create",
        "net/qat for x86_64: step qat",
        "net/qat for x86_64: step qat: epoch 1/4  loss 0.5",
    )
    build = builds.builds["net/qat for x86_64"]
    assert (build.begun, build.step, build.done) == (2, "qat", 1.25)
    assert "2/3 qat" in drawn(builds)
    assert "loss 0.5" in drawn(builds)


def test_calibration_is_a_share_too() -> None:
    """Images that were calibrated with move the bar."""
    builds = heard(
        "net/fp32 for x86_64: step int8_ptq",
        "net/fp32 for x86_64: step int8_ptq: calibrated with 12 of 48",
    )
    assert builds.builds["net/fp32 for x86_64"].share == 0.25


def test_what_a_builder_says_is_understood() -> None:
    """Lines of a builder elsewhere begin with its name."""
    builds = heard("gpubox: net/qat for x86_64: step create")
    assert builds.builds["net/qat for x86_64"].begun == 1


def test_other_lines_do_no_harm() -> None:
    """Lines of no step, of no known build, or with odd numbers are not taken for progress."""
    builds = heard(
        "data: reading shapes", "x/y for z: step create", "net/qat for x86_64: step qat: epoch 1/0"
    )
    assert builds.builds["net/qat for x86_64"].share == 0.0


def test_waiting_builds_are_a_number() -> None:
    """What is built already is not counted; what waits is one line, within the rows there are."""
    builds = heard("net/qat for x86_64: step create")
    assert "1 more builds" in drawn(builds)
    assert "old" not in drawn(builds)
    builds.begin({f"m{index}/fp32 for x86_64": 1 for index in range(50)})
    for index in range(50):
        builds.hear(f"m{index}/fp32 for x86_64: step create")
    assert len(drawn(builds).splitlines()) == 6
    builds.end()
    assert drawn(builds).strip() == ""
