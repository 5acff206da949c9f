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


def test_work_is_counted_as_by_hand() -> None:
    """A convolution meets each weight at every output, a transposed one at every input."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1),  # 16 x 16 outputs
        torch.nn.ConvTranspose2d(4, 2, 2, stride=2),  # of 16 x 16 inputs
    ).to("meta")
    assert table.macs(module, 32) == 256 * (3 * 4 * 9) + 256 * (4 * 2 * 4)


def test_a_document_without_a_place_is_refused() -> None:
    """Where the marks are missing, both are named."""
    with pytest.raises(ValueError, match="no place for the table"):
        table.written("# The zoo\n")
