"""How much to move at once over a line of any speed, so that no answer takes long.

A call that is not answered within half a minute counts as a lost board (boards/link.py), and the
answer to one of several chunks under way waits for those before it. So the size of the chunks
follows the line: what is under way together takes a few seconds, on a phone as on a cable.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from agent.wire import CHUNK_BYTES

LEAST_BYTES: Final = 16 << 10
"""The first chunk's size: with four under way, 2.2 KB/s are enough for an answer in half a minute.

Doubled with each quick answer, it is at its largest after six of them.
"""

UNDER_WAY_S: Final = 6.0
"""All that is under way may take so long: far below a call's time-out, far above a round trip."""


class Pace:
    """The size of the next chunk, by the time that those before took."""

    def __init__(self, under_way: int = 1, now_s: Callable[[], float] = time.monotonic) -> None:
        """`under_way` chunks are sent before the first answer is waited for."""
        self.under_way = under_way
        self.chunk_bytes = LEAST_BYTES
        self._limit_s = UNDER_WAY_S / under_way
        self._now_s = now_s
        self._answered_s = float("-inf")

    def sent(self) -> float:
        """The time now, to be handed to `answered` with the answer."""
        return self._now_s()

    def answered(self, size_bytes: int, sent_s: float) -> None:
        """A chunk has arrived: the next may be larger where it was quick, and is smaller if slow.

        The line was busy with it since it was sent, or since the one before it arrived.
        """
        now_s = self._now_s()
        took_s = now_s - max(sent_s, self._answered_s)
        self._answered_s = now_s
        if took_s > self._limit_s:
            fitting = int(size_bytes * self._limit_s / took_s)
            self.chunk_bytes = max(LEAST_BYTES, min(self.chunk_bytes, fitting))
        elif took_s < self._limit_s / 2 and size_bytes >= self.chunk_bytes:
            self.chunk_bytes = min(2 * self.chunk_bytes, CHUNK_BYTES)
