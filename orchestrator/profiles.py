"""How long to measure: named profiles, after the quick and normal modes of MLPerf Mobile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from agent.wire import Scenario

_NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True)
class Profile:
    """Both minimums must hold before a trial's sampling ends; the cap wins over both.

    A percentile needs samples enough: p90 at least 64, p99 at least 662.
    """

    name: str
    min_samples: int
    min_duration_s: float
    max_duration_s: float
    warmup_min_samples: int
    warmup_min_duration_s: float
    blocks: int
    accuracy_images: int


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "smoke": Profile("smoke", 8, 0.0, 60.0, 2, 0.0, 1, 4),
        "quick": Profile("quick", 64, 10.0, 600.0, 16, 1.0, 3, 64),
        "normal": Profile("normal", 1024, 60.0, 600.0, 16, 2.0, 5, 64),
    }
)


def scenario(profile: Profile, sustained_s: float | None = None) -> Scenario:
    """The profile as a board needs it, in nanoseconds.

    With `sustained_s` sampling lasts that long, neither shorter nor longer, however many samples
    that gives; the warm-up stays the profile's.
    """
    if sustained_s is not None:
        sustained_ns = round(sustained_s * _NS_PER_S)
        return Scenario(
            warmup_min_samples=profile.warmup_min_samples,
            warmup_min_duration_ns=round(profile.warmup_min_duration_s * _NS_PER_S),
            min_samples=1,
            min_duration_ns=sustained_ns,
            max_duration_ns=sustained_ns,
            name="sustained",
        )
    return Scenario(
        warmup_min_samples=profile.warmup_min_samples,
        warmup_min_duration_ns=round(profile.warmup_min_duration_s * _NS_PER_S),
        min_samples=profile.min_samples,
        min_duration_ns=round(profile.min_duration_s * _NS_PER_S),
        max_duration_ns=round(profile.max_duration_s * _NS_PER_S),
    )
