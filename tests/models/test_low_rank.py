"""Convolutions in two by singular values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="networks need torch: install the extra 'models'")

from support.compress import network, output, parameters, pictures, ultralytics  # noqa: E402

from models.errors import BuildFailed  # noqa: E402
from models.nets.layers import learned_layers  # noqa: E402
from models.nets.net import load_net, save_net  # noqa: E402
from models.steps.compress_kinds import LowRankParams  # noqa: E402
from models.steps.low_rank import decompose  # noqa: E402

pytestmark = pytest.mark.torch


def _of_rank(conv: Any, rank: int) -> None:
    """Make a kernel a sum of so many products of a column and a row."""
    out, channels, kh, kw = conv.weight.shape
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(rank, channels, kh, generator=generator)
    up = torch.randn(out, rank, kw, generator=generator)
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("rih,orw->oihw", down, up) / 30)


def test_a_kernel_of_low_rank_is_found_exactly(tmp_path: Path) -> None:
    """A kernel of rank 4 becomes two convolutions of rank 4 that compute the same."""
    net = network("unet")
    module: Any = net.module
    _of_rank(module.bottleneck[2], 4)
    images, before = pictures(1), parameters(net)
    wanted = output(net, images)
    ranks = decompose(net, LowRankParams(energy=0.9999999, round_to=1))
    assert ranks == {"bottleneck.2": 4}
    assert parameters(net) == before - 64 * 64 * 9 + 4 * 3 * (64 + 64)
    assert torch.allclose(output(net, images), wanted, atol=1e-5)
    save_net(net, tmp_path / "a.net")
    assert torch.equal(output(load_net(tmp_path / "a.net"), images), output(net, images))


def test_a_higher_ratio_is_nearer_to_the_kernel() -> None:
    """Keeping more of the weights keeps more of what a convolution computes."""
    errors, sizes = [], []
    maps = torch.rand(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    for ratio in (0.3, 0.6, 0.9):
        net = network("unet")
        module: Any = net.module
        wanted = module.bottleneck[2](maps)
        others = tuple(name for name in learned_layers(net) if name != "bottleneck.2")
        decompose(net, LowRankParams(ratio=ratio, round_to=1, exclude=others))
        errors.append(float((module.bottleneck[2](maps) - wanted).detach().pow(2).mean()))
        sizes.append(parameters(net))
    assert errors[0] > errors[1] > errors[2]
    assert sizes[0] < sizes[1] < sizes[2] < parameters(network("unet"))


def test_strides_and_paddings_are_kept() -> None:
    """TinyDet's convolutions of stride 2 among them, its output has the same shape."""
    net = network("tinydet")
    images = pictures(1)
    shape = output(net, images).shape
    ranks = decompose(net, LowRankParams(ratio=0.5, exclude=("head",)))
    assert "stage8.0.0" in ranks
    assert not [name for name in ranks if name.startswith("heads.")]
    assert output(net, images).shape == shape


def test_where_it_does_not_pay_it_is_refused() -> None:
    """When no convolution would get smaller the step says so."""
    with pytest.raises(BuildFailed, match="lower them"):
        decompose(network("unet"), LowRankParams(energy=1.0))


@pytest.mark.slow
def test_units_of_ultralytics_can_still_be_fused(tmp_path: Path) -> None:
    """The first of the two stands before the unit, so that its batch norm is folded at export."""
    from models.nets.ultra import for_inference  # noqa: PLC0415 - takes seconds to import

    net = ultralytics("yolov8n")
    decompose(net, LowRankParams(ratio=0.5, exclude=("head",)))
    images = pictures(1)
    wanted = output(net, images)
    save_net(net, tmp_path / "a.net")
    loaded = load_net(tmp_path / "a.net")
    loaded.module = for_inference(loaded.module)
    assert not [m for m in loaded.module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert torch.allclose(output(loaded, images), wanted, rtol=1e-3, atol=1e-2)
