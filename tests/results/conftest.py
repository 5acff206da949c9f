from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from results import example
from results.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@pytest.fixture(scope="session")
def full_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("full") / "results.sqlite"
    with Store.open(made, create=True) as store:
        example.fill(store)
    return made


@pytest.fixture(scope="session")
def ready_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ready") / "results.sqlite"
    with Store.open(made, create=True) as store:
        store.record_run(example.run())
        for name, model in example.BOARDS.items():
            board = example.board(name, model, emulated=model is None)
            store.record_board(example.RUN_ID, board)
        for variant in ("fp32", "int8_ptq", "ort_format"):
            store.record_artifact(example.artifact(variant))
    return made


@pytest.fixture
def filled(full_template: Path, path: Path) -> Path:
    """The file of the example's run, closed."""
    shutil.copy(full_template, path)
    return path


@pytest.fixture
def store(ready_template: Path, path: Path) -> Iterator[Store]:
    """A new database with a run, two boards and three artifacts, and no trial yet."""
    shutil.copy(ready_template, path)
    with Store.open(path, create=False) as opened:
        yield opened
