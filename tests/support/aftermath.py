"""What must hold after any fault, whatever it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
Rows = Callable[[str], list[Row]]
"""Answers a query of the run's database."""

EXPERIMENT = """
models: [{models}]
recipes: [fp32]
blocks: {blocks}
profile:
  min_samples: {samples}
  min_duration_s: {seconds}
  max_duration_s: 60
  warmup_min_samples: 1
  warmup_min_duration_s: 0
cooldown: null
"""


def experiment(
    *, blocks: int, seconds: float, samples: int = 8, models: Sequence[str] = ("tiny.onnx",)
) -> str:
    """An experiment of that many trials of each model, each of that many seconds."""
    listed = ", ".join(models)
    return EXPERIMENT.format(models=listed, blocks=blocks, seconds=seconds, samples=samples)


def ends(rows: Rows, board: str) -> list[list[tuple[str, int]]]:
    """(state, attempt) of every attempt at each of a board's trials, in the plan's order."""
    found: dict[str, list[tuple[str, int]]] = {}
    asked = "SELECT board, trial_id, state, attempt FROM trials ORDER BY plan_order, attempt"
    for row in rows(asked):
        if row["board"] == board:
            found.setdefault(row["trial_id"], []).append((row["state"], row["attempt"]))
    return list(found.values())


def require_complete(rows: Rows, trials: Mapping[str, int]) -> None:
    """Every planned trial of each board finished exactly once, with all of its samples.

    Every other attempt says why it ended; the run is finished.
    """
    for board, planned in trials.items():
        stored = ends(rows, board)
        assert len(stored) == planned, (board, stored)
        for attempts in stored:
            assert [state for state, _ in attempts].count("finished") == 1, (board, stored)
    unexplained = rows(
        "SELECT * FROM trials WHERE (state = 'finished') = (failure_kind IS NOT NULL)"
    )
    assert unexplained == []
    empty = rows(
        "SELECT trial_no FROM trials WHERE state = 'finished' AND trial_no NOT IN "
        "(SELECT trial_no FROM samples WHERE phase = 2)"
    )
    assert empty == []
    assert [row["state"] for row in rows("SELECT state FROM runs")] == ["finished"]


def require_untouched(rows: Rows, board: str, planned: int) -> None:
    """A board that no fault was done to finished each trial at once."""
    assert ends(rows, board) == [[("finished", 1)]] * planned


def samples_kept(rows: Rows, board: str, states: Iterable[str]) -> int:
    """Samples of a board's attempts that ended so."""
    listed = ", ".join(f"'{state}'" for state in states)
    (row,) = rows(
        f"SELECT COUNT(*) AS n FROM samples JOIN trials USING (trial_no) "  # noqa: S608 - our own
        f"WHERE board = '{board}' AND state IN ({listed})"
    )
    return int(row["n"])


def finished(rows: Rows) -> list[Row]:
    """The finished trials, whole, in order."""
    return rows("SELECT * FROM trials WHERE state = 'finished' ORDER BY trial_no")


def require_kept(before: Sequence[Row], after: Sequence[Row]) -> None:
    """What was finished before a resumption is the same after it, to the last column."""
    assert before
    assert [row for row in before if row not in after] == []
