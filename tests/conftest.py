"""Fixtures for every package's tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from support.leftovers import nothing_left
from support.sshd import SSHD, Sshd, running_sshd
from support.virtual import RealLab, real_lab


@pytest.fixture(scope="session", autouse=True)
def _nothing_left() -> Iterator[None]:
    """Every process that the tests start has ended with them."""
    with nothing_left():
        yield


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd on loopback."""
    if SSHD is None:
        pytest.skip("OpenSSH's sshd is not installed (`apt-get install openssh-server`)")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="session")
def virtual_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """A lab of real virtual boards; its image is built by the first board that is started."""
    lab = real_lab(tmp_path_factory.mktemp("lab"))
    try:
        yield lab
    finally:
        assert lab.cli("lab", "remove") == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: what is broken shows soon."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in words what was left out and why."""
    reasons = Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        terminalreporter.section("left out on this machine")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} tests: {reason}")
