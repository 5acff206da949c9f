"""Is A faster or more accurate than B? An effect with its interval, or why nobody can say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from results.accuracy import Difference, difference
from results.errors import QueryError
from results.intervals import MIN_BLOCKS, Ratio, paired_ratio, unpaired_ratio
from results.sides import Selector, Side, load_side

if TYPE_CHECKING:
    from results.store import Store

_MUST_MATCH: Final[dict[str, Callable[[Side], object]]] = {
    "model": lambda side: side.model,
    "scenario": lambda side: side.scenario,
    "threads": lambda side: side.threads,
    "options": lambda side: side.options,
    "inputs": lambda side: side.inputs,
    "runtime_version": lambda side: side.runtime_versions,
}
_OF_ONE_RUNTIME: Final = frozenset({"runtime_version"})
"""Versions of two runtimes have nothing in common; that there are two is noted."""
_THROTTLE_WORDS: Final = {1: "under-voltage", 2: "capped", 4: "throttled", 8: "soft limit"}


@dataclass(frozen=True)
class Reason:
    """Why two sides cannot be compared; `kind` is stable, `message` holds the values."""

    kind: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """The answer. `latency` is p50 of A over p50 of B; None comes with its reasons.

    `notes` are what a reader must know of figures that were compared all the same.
    """

    a: Side
    b: Side
    latency: Ratio | None
    latency_reasons: tuple[Reason, ...]
    accuracy: Difference | None
    accuracy_reasons: tuple[Reason, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The answer in a few lines."""
        lines = [f"A: {self.a.label}", f"B: {self.b.label}"]
        if self.latency:
            lines.append(f"latency: {_latency_words(self.latency)}")
        lines += [f"latency: not comparable because {r.message}" for r in self.latency_reasons]
        if self.accuracy:
            lines.append(f"accuracy: {self.accuracy.text}")
        lines += [f"accuracy: not comparable because {r.message}" for r in self.accuracy_reasons]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data, ready for JSON."""
        return asdict(self) | {"text": self.text}


def compare(store: Store, a: Selector, b: Selector, *, across: Collection[str] = ()) -> Verdict:
    """Compare two groups of finished trials, across runs, boards or variants.

    `across` names what is meant to differ although it must otherwise match: model, scenario,
    threads, options, inputs, runtime_version. Raises UnknownRun when a selector fits no group
    of trials or several, QueryError for an unknown name in `across`.
    """
    unknown = sorted(set(across) - set(_MUST_MATCH))
    if unknown:
        raise QueryError(f"across {', '.join(unknown)}: known are {', '.join(_MUST_MATCH)}")
    side_a, side_b = load_side(store, a), load_side(store, b)
    latency_reasons = tuple(_latency_reasons(side_a, side_b, across))
    accuracy_reasons = tuple(_accuracy_reasons(side_a, side_b))
    return Verdict(
        a=side_a,
        b=side_b,
        latency=None if latency_reasons else _ratio(side_a, side_b),
        latency_reasons=latency_reasons,
        accuracy=None if accuracy_reasons else _difference(store, side_a, side_b),
        accuracy_reasons=accuracy_reasons,
        notes=(
            *(note for name, side in (("A", side_a), ("B", side_b)) for note in _notes(name, side)),
            *_runtime_notes(side_a, side_b),
        ),
    )


def _difference(store: Store, a: Side, b: Side) -> Difference | None:
    if a.accuracy is None or b.accuracy is None:
        return None
    return difference(store, a.accuracy, b.accuracy)


def _latency_reasons(a: Side, b: Side, across: Collection[str]) -> Iterable[Reason]:
    if a.key == b.key:
        yield Reason("same", "A and B are the same trials")
    for name, side in (("A", a), ("B", b)):
        if side.emulated:
            yield Reason(
                "emulated", f"{name}'s board {side.board} is emulated: speed means nothing"
            )
        if side.throttled:
            words = ", ".join(w for bit, w in _THROTTLE_WORDS.items() if side.throttled & bit)
            yield Reason("throttled", f"{name} ran while its board was held back ({words})")
    for kind, get in _MUST_MATCH.items():
        if kind in across or (kind in _OF_ONE_RUNTIME and a.runtime != b.runtime):
            continue
        if get(a) != get(b):
            yield Reason(kind, f"{kind} differs: {_show(get(a))} against {_show(get(b))}")
    blocks = _common_blocks(a, b)
    if blocks < MIN_BLOCKS:
        yield Reason(
            "blocks", f"{blocks} blocks in common where an interval needs {MIN_BLOCKS}: repeat more"
        )


def _accuracy_reasons(a: Side, b: Side) -> Iterable[Reason]:
    missing = [name for name, side in (("A", a), ("B", b)) if side.accuracy is None]
    for name in missing:
        yield Reason("missing", f"{name} has no accuracy figure")
    if a.accuracy and b.accuracy and a.accuracy.on != b.accuracy.on:
        yield Reason("eval_set", f"the sets differ: {a.accuracy.on} against {b.accuracy.on}")


def _paired(a: Side, b: Side) -> bool:
    """Blocks are shared only by what one board measured within one run."""
    return (a.run_id, a.board) == (b.run_id, b.board)


def _common_blocks(a: Side, b: Side) -> int:
    if _paired(a, b):
        return len(a.blocks.keys() & b.blocks.keys())
    return min(len(a.blocks), len(b.blocks))


def _ratio(a: Side, b: Side) -> Ratio | None:
    if _paired(a, b):
        return paired_ratio(a.blocks, b.blocks)
    return unpaired_ratio(list(a.blocks.values()), list(b.blocks.values()))


def _notes(name: str, side: Side) -> Iterable[str]:
    if side.short_trials:
        yield f"{name}: {side.short_trials} of {side.trials} trials were ended by the time cap"
    if side.unsteady_trials:
        yield f"{name}: {side.unsteady_trials} of {side.trials} trials reached no steady state"
    if side.throttled is None:
        yield f"{name}: {side.board} cannot say whether it was throttled"


def _runtime_notes(a: Side, b: Side) -> Iterable[str]:
    """What a ratio across runtimes is a ratio of."""
    if a.runtime != b.runtime:
        ran = [f"{side.runtime} {', '.join(side.runtime_versions)}" for side in (a, b)]
        yield f"A: ran by {ran[0]}, B by {ran[1]}: the ratio is that of the runtimes as well"


def _latency_words(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return f"A takes {ratio.value:.3f} of B's time, without an interval"
    if ratio.low <= 1 <= ratio.high:
        word = "no difference shown"
    else:
        word = "A is faster" if ratio.high < 1 else "A is slower"
    return (
        f"{word}: A takes {ratio.value:.3f} of B's time, 95 % interval {ratio.low:.3f} to "
        f"{ratio.high:.3f} ({ratio.blocks} {ratio.method})"
    )


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_show(item) for item in value) + ")"
    return str(value)
