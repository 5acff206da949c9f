"""The table of networks in docs/zoo.md."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `models` (torch)")
from models.nets import table  # noqa: E402 - without torch nothing here can run
from orchestrator.studies.published import studies  # noqa: E402

pytestmark = pytest.mark.torch


def test_the_document_has_the_table_of_today() -> None:
    """docs/zoo.md says what the networks themselves say; `--write` renews it."""
    text = table.DOCUMENT.read_text()
    assert table.written(text) == text


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_u_nets_stand_beside_the_published_ones() -> None:
    """Each U-Net's parameters, the published count, and their difference are the true ones."""
    text = table.DOCUMENT.read_text().partition("### The U-Net family")[2]
    lines = [cells(line) for line in text.splitlines() if line.startswith("| unet")]
    counted = {name: parameters for name, _, parameters, *_ in map(cells, table.rows())}
    assert {name: own for name, own, *_ in lines} == {
        name: own for name, own in counted.items() if name.startswith("unet")
    }
    published = {
        row.models[0]: row.parameters
        for row in studies()["unet-lightweight"].rows
        if row.parameters is not None
    }
    assert {name: theirs for name, _, theirs, *_ in lines} == {
        name: f"{published[name]:,}" if name in published else "none" for name, *_ in lines
    }
    for name, own, _, difference, *_ in lines:
        more = int(own.replace(",", "")) - published.get(name, 0)
        assert difference == ("" if name not in published else f"{more:+,}" if more else "0")


def test_a_document_without_a_place_is_refused() -> None:
    """Where the marks are missing, both are named."""
    with pytest.raises(ValueError, match="no place for the table"):
        table.written("# The zoo\n")
