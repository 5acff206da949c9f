"""`orchestrator build --explain`: what each variant consists of and costs, as tables or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent import wire
from models.figures import Figures, Section
from models.store import Manifest
from orchestrator import tables
from orchestrator.assign import Built, BuiltVariant
from orchestrator.curves import curves_table
from orchestrator.tables import NONE, Column
from orchestrator.text import printable

_BYTES_PER_MB: Final = 1e6
_MACS_PER_M: Final = 1e6
_FLOPS_PER_G: Final = 1e9
CONVENTION: Final = (
    "MACs: multiply-accumulates of convolutions and matrix products in one inference; FLOPs are "
    "twice as many. deflated: the file after deflate (estimated above 32 MiB). zeros: share of "
    "the weights that are multiplied by. shares are of the whole file's"
)

Named = Iterator[tuple[str, str, Manifest]]


def show(out: Console, built: Built) -> None:
    """Print figures, sections, operators and learning curves of every variant that was built."""
    variants = [*_variants(built)]
    figures = [_figures(name, isa, manifest) for name, isa, manifest in variants]
    out.print()
    tables.show(out, _FIGURE_COLUMNS, figures)
    sections = [row for found in variants for row in _sections(*found)]
    if sections:
        out.print()
        tables.show(out, _SECTION_COLUMNS, sections)
    out.print()
    for name, isa, manifest in variants:
        out.print(Text(f"{name} for {isa}", style="bold"))
        for line in _lines(manifest):
            out.print(Text(f"  {printable(line)}"), soft_wrap=True)
    for table in _learned(variants):
        out.print()
        out.print(table)
    out.print(Text(CONVENTION, style="dim"), soft_wrap=True)


def _learned(variants: Sequence[tuple[str, str, Manifest]]) -> Iterator[Table]:
    """The curves of each training once, whatever variants share it."""
    seen = set()
    for _, _, manifest in variants:
        if manifest.curves not in seen:
            seen.add(manifest.curves)
            table = curves_table(manifest)
            if table is not None:
                yield table


def as_json(built: Built) -> list[dict[str, Any]]:
    """The same as JSON values, one object a variant; what is not known is null."""
    return [_object(key, variant) for key, variant in built.items()]


def _variants(built: Built) -> Named:
    for (model, recipe, isa), variant in built.items():
        if isinstance(variant, BuiltVariant):
            yield printable(f"{model}/{recipe}"), isa, _manifest(variant)


def _manifest(variant: BuiltVariant) -> Manifest:
    """The artifact's manifest, its figures counted now where they are absent or of other shapes.

    One file serves every shape of a dynamic input, and was counted at the first.
    """
    manifest = variant.artifact.manifest
    known, shapes = manifest.figures, variant.model.shapes
    if known is not None and known.shapes == shapes:
        return manifest
    if manifest.format == "onnx":
        from models.explain import explain  # noqa: PLC0415 - takes 0.3 s and is rarely needed

        figures = explain(variant.artifact.path, shapes)
        return msgspec.structs.replace(manifest, figures=figures)
    if known is None:
        return manifest
    return msgspec.structs.replace(manifest, figures=_without_macs(known))


def _without_macs(figures: Figures) -> Figures:
    """Less what depends on shapes."""
    sections = tuple(msgspec.structs.replace(part, macs=None) for part in figures.sections)
    note = f"multiply-accumulates not counted: the file was counted at {figures.shapes}"
    return msgspec.structs.replace(figures, macs=None, sections=sections, note=note)


_FIGURE_COLUMNS: Final = (
    Column("variant"),
    Column("for", spare=3),
    Column("parameters", figures=True),
    Column("MACs M", figures=True),
    Column("GFLOPs", figures=True),
    Column("MB", figures=True),
    Column("deflated", figures=True),
    Column("zeros", figures=True, spare=2),
    Column("INT8", figures=True, spare=1),
)
_SECTION_COLUMNS: Final = (
    Column("variant"),
    Column("for", spare=3),
    Column("section"),
    Column("parameters", figures=True),
    Column("share", figures=True),
    Column("MB", figures=True),
    Column("share", figures=True),
    Column("MACs M", figures=True, spare=2),
    Column("share", figures=True, spare=1),
)


def _figures(name: str, isa: str, manifest: Manifest) -> list[str]:
    figures = manifest.figures
    kernels = manifest.fused_kernels
    return [
        name,
        isa,
        f"{manifest.parameters:,}",
        _scaled(figures.macs if figures else None, _MACS_PER_M, 1),
        _scaled(figures.flops if figures else None, _FLOPS_PER_G, 3),
        _scaled(manifest.size_bytes, _BYTES_PER_MB, 2),
        _scaled(figures.compressed_bytes if figures else None, _BYTES_PER_MB, 2),
        NONE if figures is None or figures.sparsity is None else f"{figures.sparsity:.0%}",
        NONE if kernels is None else str(sum(kernels.values())),
    ]


def _sections(name: str, isa: str, manifest: Manifest) -> Iterator[list[str]]:
    """A row a section; variants without known sections have none."""
    parts = manifest.figures.sections if manifest.figures else ()
    shares = _shares(parts)
    for part in parts:
        share = shares[part.name]
        yield [
            name,
            isa,
            printable(part.name),
            f"{part.parameters:,}",
            _percent(share["parameters"]),
            _scaled(part.weight_bytes, _BYTES_PER_MB, 2),
            _percent(share["weight_bytes"]),
            _scaled(part.macs, _MACS_PER_M, 1),
            _percent(share["macs"]),
        ]


def _shares(parts: tuple[Section, ...]) -> dict[str, dict[str, float | None]]:
    """Each section's share of parameters, bytes and multiply-accumulates."""

    def share(part: Section, field: str) -> float | None:
        values = [getattr(other, field) for other in parts]
        whole = sum(value for value in values if value is not None)
        own = getattr(part, field)
        return None if own is None or not whole else own / whole

    fields = ("parameters", "weight_bytes", "macs")
    return {part.name: {field: share(part, field) for field in fields} for part in parts}


def _lines(manifest: Manifest) -> Iterator[str]:
    yield f"operators: {_counted(manifest.node_counts)}"
    if manifest.fused_kernels is None:
        yield f"fused INT8 kernels: {manifest.fused_note}"
    elif manifest.fused_kernels:
        yield (
            f"fused INT8 kernels: {_counted(manifest.fused_kernels)}; "
            f"{manifest.unfused_qdq} QuantizeLinear and DequantizeLinear left"
        )
    figures = manifest.figures
    if figures is None:
        yield "figures: not counted for this format by the version that built it"
    elif figures.note is not None:
        yield figures.note


def _counted(counts: Mapping[str, int]) -> str:
    """Most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ranked) or "not known"


def _object(key: tuple[str, str, str], variant: BuiltVariant | wire.BenchError) -> dict[str, Any]:
    model, recipe, isa = key
    named = {"model": model, "recipe": recipe, "isa": isa}
    if isinstance(variant, wire.BenchError):
        return {**named, "error": str(variant)}
    manifest = _manifest(variant)
    figures = manifest.figures
    parts = figures.sections if figures else ()
    shares = _shares(parts)
    return {
        **named,
        "sha256": manifest.sha256,
        "format": manifest.format,
        "parameters": manifest.parameters,
        "macs": figures.macs if figures else None,
        "flops": figures.flops if figures else None,
        "size_bytes": manifest.size_bytes,
        "compressed_bytes": figures.compressed_bytes if figures else None,
        "sparsity": figures.sparsity if figures else None,
        "sections": [
            {
                "name": part.name,
                "parameters": part.parameters,
                "weight_bytes": part.weight_bytes,
                "macs": part.macs,
                "shares": shares[part.name],
            }
            for part in parts
        ],
        "operators": manifest.node_counts,
        "fused_kernels": manifest.fused_kernels,
        "unfused_qdq": manifest.unfused_qdq,
        "note": figures.note if figures else None,
    }


def _scaled(value: float | None, unit: float, digits: int) -> str:
    return NONE if value is None else f"{value / unit:,.{digits}f}"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{share:.1%}"
