"""Fixtures for every package's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.sshd import SSHD, Sshd, running_sshd


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd on loopback."""
    if SSHD is None:
        pytest.skip("OpenSSH's sshd is not installed (`apt-get install openssh-server`)")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server
