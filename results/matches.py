"""Which detections were right in an image, as `image_scores.matches_json` has it."""

from __future__ import annotations

import msgspec

from results.errors import ResultsError


class ImageMatches(msgspec.Struct, frozen=True):
    """One image.

    `objects`: how many count, by class. `found`: of each detection its class, its score, and
    two numbers of which bit k says that at IoU threshold k it is right, and that it is ignored.
    """

    objects: dict[int, int]
    found: tuple[tuple[int, float, int, int], ...]


def encoded(matches: ImageMatches) -> str:
    """The text that is stored."""
    ordered = msgspec.structs.replace(matches, objects=dict(sorted(matches.objects.items())))
    return msgspec.json.encode(ordered).decode()


def decoded(text: str) -> ImageMatches:
    """From what is stored; raises ResultsError."""
    try:
        return msgspec.json.decode(text, type=ImageMatches)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise ResultsError(f"image_scores.matches_json: {exc}; restore a copy") from exc
