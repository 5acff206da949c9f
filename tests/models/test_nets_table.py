"""The table of networks in docs/zoo.md."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `models` (torch)")
from models.nets import table  # noqa: E402 - without torch nothing here can run

pytestmark = pytest.mark.torch


def test_the_document_has_the_table_of_today() -> None:
    """docs/zoo.md says what the networks themselves say; `--write` renews it."""
    text = table.DOCUMENT.read_text()
    assert table.written(text) == text


def test_a_document_without_a_place_is_refused() -> None:
    """Where the marks are missing, both are named."""
    with pytest.raises(ValueError, match="no place for the table"):
        table.written("# The zoo\n")
