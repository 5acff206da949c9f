"""What a network computes, counted by torch as it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch: install the extra 'models'")

from models import recipes, zoo  # noqa: E402 - without torch nothing here can run
from models.build import build  # noqa: E402
from models.chain import VariantRequest  # noqa: E402
from models.figures import Section  # noqa: E402
from models.nets import parts  # noqa: E402
from models.nets.arch import Arch  # noqa: E402
from models.nets.deform import Deformable  # noqa: E402
from models.nets.net import build_net  # noqa: E402
from models.nets.work import count_macs, macs_by_module  # noqa: E402
from models.store import ArtifactStore  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layers_are_counted_as_by_hand(device: str) -> None:
    """A convolution meets each weight at every output, a transposed one at every input."""
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1),  # 16 x 16 outputs
        torch.nn.Conv2d(4, 4, 3, padding=1, groups=2),
        torch.nn.ConvTranspose2d(4, 2, 2, stride=2),  # of 16 x 16 inputs
    ).to(device)
    assert count_macs(module, 32) == 256 * (3 * 4 * 9) + 256 * (2 * 4 * 9) + 256 * (4 * 2 * 4)


def test_a_deformable_convolution_counts_with_its_offsets() -> None:
    """Both the convolution that finds the offsets and the one that uses them are work."""
    assert count_macs(Deformable(3, 4), 8) == 64 * (3 * 4 * 9) + 64 * (3 * 27 * 9)


@pytest.mark.slow
def test_a_file_with_a_deformable_convolution_says_the_same(tmp_path: Path) -> None:
    """`unet-deform` has as many multiply-accumulates in its ONNX file as torch counts."""
    model = zoo.resolve("unet-deform", imgsz=64, options={"width": 0.25})
    wanted = VariantRequest(model, recipes.get("fp32"), "x86_64")
    figures = build(wanted, ArtifactStore(tmp_path), lambda _: None).manifest.figures
    assert figures is not None
    options = {"num_classes": 1, "width": 0.25}
    arch = Arch(family="unet-deform", options=options, imgsz_px=64, class_names=("blob",))
    assert figures.macs == count_macs(build_net(arch).module.eval(), 64)
    assert [part.name for part in figures.sections] == ["encoder", "bottleneck", "decoder", "head"]
    assert sum(part.macs or 0 for part in figures.sections) == figures.macs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "imgsz", "options"),
    [
        ("unet-lite", 64, {"width": 0.25}),
        ("yolov3-tiny", 96, {"width": 0.25}),
        ("yolov10n.yaml", 64, {"width": 0.125}),  # its one-to-one branch is in no export
    ],
)
def test_a_torch_archive_says_what_the_onnx_file_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference: str,
    imgsz: int,
    options: dict[str, object],
) -> None:
    """The same network costs the same in either format, section by section."""
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "ultralytics"))
    model = zoo.resolve(reference, imgsz=imgsz, options=options)
    store = ArtifactStore(tmp_path)
    onnx, eager = (
        build(VariantRequest(model, recipes.get(name), "x86_64"), store, lambda _: None).manifest
        for name in ("fp32", "torch_eager")
    )
    assert onnx.figures is not None
    assert eager.figures is not None
    assert eager.figures.macs == onnx.figures.macs
    theirs, ours = onnx.figures.sections, eager.figures.sections
    assert len(theirs) > 2
    assert [(part.name, part.macs) for part in ours] == [(part.name, part.macs) for part in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        # In an ONNX file equal tensors are one: here the biases, which are still zero.
        assert mine.parameters == pytest.approx(other.parameters, rel=0.02)
        assert mine.weight_bytes == pytest.approx(other.weight_bytes, rel=0.02)
    assert sum(part.parameters for part in ours) == eager.parameters
    assert sum(part.weight_bytes or 0 for part in ours) == eager.weight_bytes
    assert "of the network that it was made from" in (eager.figures.note or "")


def test_work_between_modules_belongs_to_the_one_around_them() -> None:
    """What a module computes itself is its own; what others within it compute is theirs."""

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList([torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(2, 2, 1)])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            for part in self.parts:
                images = part(images)
            return images @ images

    found = macs_by_module(Outer(), 8)
    assert found == {"": 2 * 8 * 8 * 8, "parts.0": 64 * 6, "parts.1": 64 * 4}


def test_what_lies_in_no_section_is_told_as_such() -> None:
    """Counts are summed by section; a name that only begins alike is no part of it."""
    sections = {"body": ("stage1",), "head": ("heads",)}
    sums = parts.by_section({"stage1": 1, "stage1.0": 2, "stage10.0": 4, "heads.0.w": 8}, sections)
    assert sums == {"body": 3, "head": 8, "other": 4}
    assert [part.name for part in parts.shares(sections, sums, None, {})] == [
        "body", "head", "other",
    ]  # fmt: skip
    (body, _) = parts.shares(sections, {"body": 3, "head": 8}, None, {"body": 5})
    assert body == Section("body", 3, None, 5)
