from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from results import example
from results.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A new database with a run, two boards and three artifacts, and no trial yet."""
    with Store.open(path, create=True) as opened:
        opened.record_run(example.run())
        for name, model in example.BOARDS.items():
            board = example.board(name, model, emulated=model is None)
            opened.record_board(example.RUN_ID, board)
        for variant in ("fp32", "int8_ptq", "ort_format"):
            opened.record_artifact(example.artifact(variant))
        yield opened
