"""Training examples: drawn or read once, kept in memory while they fit, batched in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

import numpy as np

from models.spec import TrainingSpec
from models.steps.settings import Settings

MAX_CACHE_BYTES: Final = 2 << 30
"""Sets that are larger are read again in every epoch."""
_MAX_THREADS: Final = 8
_AHEAD: Final = 2
"""Batches a thread prepares before they are asked for."""

E = TypeVar("E")
B = TypeVar("B")


class Examples(Generic[E]):
    """`count` examples by number; `read` makes one, `size_bytes` is what it takes in memory."""

    def __init__(
        self,
        read: Callable[[int], E],
        count: int,
        size_bytes: int,
        limit_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        self._read = read
        self._count = count
        self._kept: dict[int, E] | None = {} if count * size_bytes <= limit_bytes else None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> E:
        """The example; raises what its reader raises (ImageError)."""
        if self._kept is None:
            return self._read(index)
        if index not in self._kept:
            self._kept[index] = self._read(index)  # two threads may both: they read the same
        return self._kept[index]


def limit_of(training: TrainingSpec, settings: Settings) -> int | None:
    """How many images are used at most, None for all."""
    limits = [n for n in (training.images, settings.images) if n is not None]
    return min(limits) if limits else None


def batches(
    examples: Examples[E],
    size: int,
    seed: Sequence[int],
    change: Callable[[E, np.random.Generator], E],
    join: Callable[[list[E]], B],
) -> Iterator[B]:
    """One epoch in an order of its own, each example changed, batches joined, made ahead.

    What an example becomes follows from `seed` and its number alone, so that threads and a
    resumed training give the same. The last incomplete batch is left out, unless it is all.
    """
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    size = min(size, len(order))
    groups = [order[at : at + size] for at in range(0, len(order) - size + 1, size)]

    def make(indices: list[int]) -> B:
        return join([change(examples[i], np.random.default_rng([*seed, i])) for i in indices])

    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for group in groups:
                waiting.append(pool.submit(make, group))
                if len(waiting) > threads * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
