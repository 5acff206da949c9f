from __future__ import annotations

from pathlib import Path

import pytest

from results.schema import Base
from results.schema_doc import document, main
from results.views import VIEWS

DOCUMENT = Path(__file__).parents[2] / "docs" / "schema.md"


def test_the_document_is_up_to_date() -> None:
    """docs/schema.md is what the generator writes now."""
    assert main(["--check", str(DOCUMENT)]) == 0


def test_everything_in_the_database_has_a_meaning() -> None:
    """Every table, column and view is described, in the document too."""
    text = document()
    for table in Base.metadata.sorted_tables:
        assert table.comment, table.name
        assert f"### {table.name}\n" in text
        assert [c.name for c in table.columns if not c.comment] == []
    for view in VIEWS:
        assert f"### {view.name}\n" in text
        assert [column.name for column in view.columns if not column.meaning] == []


def test_an_outdated_document_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails on a missing or changed document and writes nothing."""
    path = tmp_path / "schema.md"
    assert main(["--check", str(path)]) == 1
    assert not path.exists()
    assert main([str(path)]) == 0
    assert main(["--check", str(path)]) == 0
    path.write_text(path.read_text().replace("latency", "delay"))
    assert main(["--check", str(path)]) == 1
    assert "python -m results.schema_doc" in capsys.readouterr().err
