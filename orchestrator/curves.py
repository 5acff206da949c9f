"""Learning curves of an artifact, from its manifest: a table for the terminal, a picture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from models.store import CurvePoint, Manifest
from orchestrator.text import printable

_BARS: Final = "▁▂▃▄▅▆▇█"
_NAMES: Final = {"map50": "mAP50", "map50_95": "mAP50-95", "dice": "Dice", "iou": "IoU"}
_WIDEST: Final = 24
"""Characters of a drawn curve, so that a table fits 80; longer ones show every n-th epoch."""

Curve = tuple[CurvePoint, ...]


def curves_of(points: Sequence[CurvePoint]) -> list[dict[tuple[str, str], Curve]]:
    """The points as trainings in their order, each as curves by split and metric.

    A training begins where a curve's epochs start over.
    """
    trainings: list[dict[tuple[str, str], list[CurvePoint]]] = []
    for point in points:
        key = (point.split, point.metric)
        before = trainings[-1].get(key) if trainings else None
        if not trainings or (before and before[-1].epoch >= point.epoch):
            trainings.append({})
        trainings[-1].setdefault(key, []).append(point)
    return [{key: tuple(curve) for key, curve in each.items()} for each in trainings]


def curves_table(manifest: Manifest) -> Table | None:
    """One line a curve: first, best and last value, and its course; None without any."""
    if not manifest.curves:
        return None
    title = Text(f"learning curves of {printable(f'{manifest.model}/{manifest.recipe}')}")
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("training", "split", "metric", "epochs"):
        table.add_column(name)
    for name in ("first", "best", "last"):
        table.add_column(name, justify="right")
    table.add_column("course", no_wrap=True)
    for number, training in enumerate(curves_of(manifest.curves), start=1):
        for (split, metric), curve in training.items():
            values = [point.value for point in curve]
            best = min(values) if metric == "loss" else max(values)
            table.add_row(
                str(number),
                split,
                _NAMES.get(metric, metric),
                str(curve[-1].epoch),
                *(f"{value:.4f}" for value in (values[0], best, values[-1])),
                sparkline(values),
            )
    return table


def sparkline(values: Sequence[float]) -> str:
    """The values as bars from the lowest to the highest, at most 24 of them."""
    step = -(-len(values) // _WIDEST)
    shown = values[::step]
    low, high = min(shown), max(shown)
    if high == low:
        return _BARS[0] * len(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] for value in shown)


def draw_curves(path: Path, points: Sequence[CurvePoint], title: str = "") -> None:
    """Write a picture (.png, .svg): losses on the left, scores, where there are any, on the right.

    The file appears whole or not at all. Raises ImportError without matplotlib, ValueError
    without points, OSError where it cannot be written.
    """
    if not points:
        raise ValueError("no learning curves: nothing was trained on the way to this artifact")
    from matplotlib import rc_context  # noqa: PLC0415 - only pictures need it
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as above

    panels = sorted({_panel(point) for point in points})
    figure = Figure(figsize=(4.5 * len(panels), 3.5), layout="constrained")
    axes = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True))
    trainings = curves_of(points)
    for number, training in enumerate(trainings, start=1):
        for (split, metric), curve in training.items():
            label = f"{split} {_NAMES.get(metric, metric)}"
            label += f" ({number})" if len(trainings) > 1 else ""
            epochs, values = [p.epoch for p in curve], [p.value for p in curve]
            # a training of one epoch is a point, which a line alone would not show
            axes[_panel(curve[0])].plot(epochs, values, marker="o", markersize=3, label=label)
    for name, panel in axes.items():
        panel.set(xlabel="epoch", ylabel=name)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.legend()
    figure.suptitle(title)
    whole = path.with_name(f".{path.name}.tmp")
    # No date and no random ids: the same curves give the same file.
    dated = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    # Letters as text: who reads the picture has fonts for names that matplotlib has none for.
    settings = {"svg.hashsalt": "orchestrator", "svg.fonttype": "none"}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(whole, format=path.suffix.removeprefix("."), metadata=dated)
    whole.replace(path)


def _panel(point: CurvePoint) -> str:
    return "loss" if point.metric == "loss" else "score"
