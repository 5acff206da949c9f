"""What a network computes, counted by torch as it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch: install the extra 'models'")

from models import recipes, zoo  # noqa: E402 - without torch nothing here can run
from models.build import build  # noqa: E402
from models.chain import VariantRequest  # noqa: E402
from models.nets.arch import Arch  # noqa: E402
from models.nets.deform import Deformable  # noqa: E402
from models.nets.net import build_net  # noqa: E402
from models.nets.work import count_macs  # noqa: E402
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
    [("unet-lite", 64, {"width": 0.25}), ("yolov3-tiny", 96, {"width": 0.25})],
)
def test_a_torch_archive_says_what_the_onnx_file_says(
    tmp_path: Path, reference: str, imgsz: int, options: dict[str, object]
) -> None:
    """The same network costs the same in either format; only ONNX tells it by sections."""
    model = zoo.resolve(reference, imgsz=imgsz, options=options)
    store = ArtifactStore(tmp_path)
    onnx, eager = (
        build(VariantRequest(model, recipes.get(name), "x86_64"), store, lambda _: None)
        for name in ("fp32", "torch_eager")
    )
    assert onnx.manifest.figures is not None
    assert eager.manifest.figures is not None
    assert eager.manifest.figures.macs == onnx.manifest.figures.macs
    assert eager.manifest.figures.sections == ()
    assert "from" in (eager.manifest.figures.note or "")
