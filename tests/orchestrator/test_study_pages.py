"""The pages under docs/studies, which were written from runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import experimentfile
from orchestrator.studies.published import studies

FOLDER = Path(__file__).parents[2] / "docs" / "studies"


@pytest.mark.parametrize("name", sorted(studies()))
def test_a_page_has_every_row_of_todays_experiment(name: str) -> None:
    """A variant that was added to a study, and not measured, is missed on its page."""
    page = (FOLDER / f"{name}.md").read_text()
    variants = experimentfile.load(name, FOLDER, "smoke").variants()
    several = len({model for model, _ in variants}) > 1
    for model, recipe in variants:
        assert f"\n| {model}/{recipe} |" in page if several else f"\n| {recipe} |" in page
    assert "not measured" not in page
    assert "## What they found" in page
    assert ("## Latency against temperature" in page) == (studies()[name].sustained is not None)
    assert ("## The whole network, untrained" in page) == (studies()[name].whole is not None)


@pytest.mark.parametrize("name", sorted(studies()))
def test_pictures_of_a_page_are_there(name: str) -> None:
    """Every learning curve, and what was found in images, lies beside the page that shows it."""
    page = (FOLDER / f"{name}.md").read_text()
    shown = [line.partition("](")[2].rstrip(")") for line in page.splitlines() if "![" in line]
    assert shown
    assert all((FOLDER / picture).is_file() for picture in shown)
