"""What build processes do in tests; a module of its own, because they import it by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.wire import BenchError
from models.build import VariantRequest
from models.errors import BuildFailed


@dataclass(frozen=True)
class Fails:
    """Answers each request with an error that holds its label; dies at one recipe."""

    dies_at: str = ""

    def __call__(self, request: VariantRequest, log: Callable[[str], None]) -> BenchError:
        if request.recipe.name == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        log(f"working on {request.recipe.name}")
        return BuildFailed(request.label)


@dataclass(frozen=True)
class Notes:
    """Writes when each request started and ended, monotonic, into a folder."""

    folder: Path
    lasts_s: float = 0.2

    def __call__(self, request: VariantRequest, log: Callable[[str], None]) -> BenchError:
        started = time.monotonic()
        time.sleep(self.lasts_s)
        note = self.folder / request.recipe.name
        note.write_text(f"{started} {time.monotonic()} {os.getpid()}")
        return BuildFailed(request.label)
