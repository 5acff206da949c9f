"""The documents agree with one another and with the files that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page: Path) -> None:
    """A relative link or picture of a document is there."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    gone = [
        link
        for link in links
        if "://" not in link and not (page.parent / link.partition("#")[0]).exists()
    ]
    assert gone == []


def test_the_korean_page_has_the_commands_of_the_readme() -> None:
    """What the short Korean page tells one to type stands in the README, word for word."""

    def code(page: str) -> list[str]:
        lines = (ROOT / page).read_text().splitlines()
        return [line.strip() for line in lines if line.startswith("    ")]

    korean, english = code("docs/ko.md"), code("README.md")
    assert len(korean) > 10
    assert [line for line in korean if line not in english] == []
