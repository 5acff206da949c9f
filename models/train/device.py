"""Where a training computes, in what precision, and that it has a GPU for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from models.errors import BuildFailed
from models.locking import locked
from models.steps.settings import Settings

_LOCK: Final = "gpu.lock"


def device_of(settings: Settings) -> torch.device:
    """Where to train; raises BuildFailed where CUDA is asked for and absent."""
    present = torch.cuda.is_available()
    if settings.device == "cuda" and not present:
        raise BuildFailed("device: cuda was asked for and this machine has none; use auto")
    return torch.device("cuda" if present and settings.device != "cpu" else "cpu")


def uses_bfloat16(settings: Settings, device: torch.device) -> bool:
    """Whether to compute in bfloat16: on CUDA, and on CPUs that multiply tiles of it.

    With AMX a step takes half the time; without, bfloat16 is slower than float32.
    """
    if settings.amp != "auto":
        return settings.amp == "on"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "amx_bf16" in _cpu_flags()


def _cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What this CPU can do, as Linux lists it; nothing where it does not."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


@contextmanager
def sole_use(settings: Settings, folder: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the GPU while inside, where the settings train on one; the kernel frees it.

    Builds run side by side, and each training wants most of a GPU's memory: those that share
    `folder` take turns. Raises BuildFailed where the memory does not suffice all the same.
    """
    if device_of(settings).type == "cpu":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK, lambda: log("another training has the GPU; waiting")):
        try:
            yield
        except torch.OutOfMemoryError as exc:
            raise BuildFailed(too_large(settings)) from exc
        finally:
            torch.cuda.empty_cache()  # a build process lives on, and the next one needs the memory


def too_large(settings: Settings) -> str:
    """What to do where a GPU's memory is too small."""
    return (
        f"the GPU's memory does not hold a batch of {settings.batch}: give the step a smaller "
        "`batch`, or `device: cpu`"
    )
