"""What stands under a run's final table about accuracy that was lost."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from orchestrator import final
from orchestrator.runner import Report
from results.queries import LeaderboardRow


def row(variant: str, **figures: Any) -> LeaderboardRow:
    """A row whose figures are absent but for those that are given."""
    absent = {field.name: None for field in dataclasses.fields(LeaderboardRow)}
    named: dict[str, Any] = {"board": "pi5", "model": "net", "variant": variant, "emulated": False}
    scored = {"eval_set": "shapes", "eval_split": "val", "eval_images": 64, "eval_place": "board"}
    return LeaderboardRow(**{**absent, **named, **scored, **figures})


def lost(*rows: LeaderboardRow) -> list[str]:
    return [note for note in final.notes(rows, "fp32") if "LOST" in note]


@pytest.mark.parametrize(("figure", "name"), [("map50", "mAP50"), ("dice", "Dice")])
def test_lost_accuracy_is_told(figure: str, name: str) -> None:
    """Below 95 % of the baseline's figure a variant is named with its share; at 95 % it is not."""
    rows = [
        row("fp32", **{figure: 0.8}),
        row("good", **{figure: 0.77}),
        row("bad", **{figure: 0.6}),
    ]
    assert lost(*rows) == [
        f"LOST ACCURACY: pi5: net/bad keeps 75.0% of fp32's {name}, less than 95%"
    ]


@pytest.mark.parametrize(
    "other",
    [{"board": "pi3b"}, {"model": "other"}, {"eval_images": 32}, {"eval_set": "voc"}],
)
def test_only_like_is_compared(other: dict[str, Any]) -> None:
    """Figures of another board, model, set or number of images say nothing of a loss."""
    assert lost(row("fp32", map50=0.8), row("bad", map50=0.2, **other)) == []


def test_no_figure_is_no_loss() -> None:
    """Without accuracy, of the variant or of its baseline, nothing is said."""
    assert lost(row("fp32"), row("bad", map50=0.2)) == []
    assert lost(row("fp32", map50=0.8), row("untrained")) == []
    assert lost(row("bad", map50=0.2)) == []


def test_json_says_what_is_emulated() -> None:
    """Each row of `run --json` says whether its board is real, so no time is taken for one."""
    rows = [row("fp32", p50_ms=1.0), row("fp32", board="virtual", p50_ms=9.0, emulated=True)]
    made = json.loads(final.as_json(rows, Report("a-run", "finished", 2, ())))
    assert {one["board"]: one["emulated"] for one in made["rows"]} == {
        "pi5": False,
        "virtual": True,
    }
