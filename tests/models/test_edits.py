"""Changes of design: activations and kinds of convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="networks need torch: install the extra 'models'")

from support.compress import network, output, parameters, pictures, ultralytics  # noqa: E402
from torch import nn  # noqa: E402

from models.errors import BuildFailed  # noqa: E402
from models.nets.layers import learned_layers  # noqa: E402
from models.nets.net import Net, load_net, save_net  # noqa: E402
from models.steps.compress_kinds import ChangeConvsParams, SwapActivationParams  # noqa: E402
from models.steps.redesign import change_convs, swap_activation  # noqa: E402

pytestmark = pytest.mark.torch


def same_after_a_file(net: Net, path: Path) -> bool:
    save_net(net, path)
    images = pictures(1)
    return bool(torch.equal(output(load_net(path), images), output(net, images)))


def kinds(net: Net, kind: type) -> int:
    return sum(isinstance(m, kind) for m in net.module.modules())


def test_activations_are_swapped(tmp_path: Path) -> None:
    """Every ReLU of the U-Net becomes a LeakyReLU of the given slope, also after a file."""
    net = network("unet")
    changed = swap_activation(net, SwapActivationParams(old=("relu",), slope=0.2))
    assert changed == kinds(net, nn.LeakyReLU) == 14
    assert kinds(net, nn.ReLU) == 0
    assert {m.negative_slope for m in net.module.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert same_after_a_file(net, tmp_path / "a.net")


def test_relu_takes_the_place_of_another_activation(tmp_path: Path) -> None:
    """Every LeakyReLU of YOLOv3 becomes a ReLU, which lets nothing negative pass."""
    net = network("yolov3")
    leaky = kinds(net, nn.LeakyReLU)
    changed = swap_activation(net, SwapActivationParams(old=("leaky_relu",), new="relu"))
    assert changed == kinds(net, nn.ReLU) == leaky == 72
    assert kinds(net, nn.LeakyReLU) == 0
    lowest: list[float] = []
    for module in net.module.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _x, out: lowest.append(float(out.min())))
    output(net, pictures(1))
    assert len(lowest) == 72
    assert min(lowest) == 0
    assert same_after_a_file(net, tmp_path / "a.net")


def test_a_network_without_the_activation_is_refused() -> None:
    """The error names the activations that there are."""
    with pytest.raises(BuildFailed, match=r"no silu; it has .*ReLU"):
        swap_activation(network("unet"), SwapActivationParams())


@pytest.mark.slow
def test_an_activation_that_layers_share_is_swapped_everywhere(tmp_path: Path) -> None:
    """ultralytics uses one SiLU object for many layers; none of them keeps it."""
    net = ultralytics("yolov8n")
    assert swap_activation(net, SwapActivationParams()) == 57
    assert kinds(net, nn.SiLU) == 0
    assert same_after_a_file(net, tmp_path / "a.net")


@pytest.mark.parametrize(
    ("change", "value", "share"), [("group", 4, 0.33), ("separable", 1, 0.3), ("dilate", 2, 1.0)]
)
def test_convolutions_are_changed(change: Any, value: int, share: float, tmp_path: Path) -> None:
    """Groups and separable convolutions save weights, dilation none; sizes of maps stay."""
    net = network("unet")
    before = parameters(net)
    shape = output(net, pictures(1)).shape
    changed = change_convs(net, ChangeConvsParams(change=change, value=value))
    assert changed == (13 if change == "group" else 14)  # three inputs are not in four groups
    assert parameters(net) <= share * before
    assert output(net, pictures(1)).shape == shape
    assert same_after_a_file(net, tmp_path / "a.net")


def test_a_separable_kernel_is_found_exactly() -> None:
    """A kernel that is a product of a spatial and a channel part computes the same as before."""
    net = network("unet")
    module: Any = net.module
    conv = module.bottleneck[2]
    with torch.no_grad():
        conv.weight.copy_(conv.weight[:, :, :1, :1] * torch.rand(1, 64, 3, 3))
    images = pictures(1)
    wanted = output(net, images)
    others = tuple(name for name in learned_layers(net) if name != "bottleneck.2")
    change_convs(net, ChangeConvsParams(change="separable", exclude=others))
    assert torch.allclose(output(net, images), wanted, atol=1e-5)


def test_what_fits_no_convolution_is_refused() -> None:
    """Seven groups divide no width of the network, and the step says so."""
    with pytest.raises(BuildFailed, match="groups have to divide"):
        change_convs(network("unet"), ChangeConvsParams(change="group", value=7))


def test_a_dilation_that_is_there_is_no_change() -> None:
    """A network whose layers have it already is refused, a layer with another one is changed."""
    with pytest.raises(BuildFailed, match="no convolution fits dilate 1"):
        change_convs(network("unet"), ChangeConvsParams(change="dilate", value=1))
    assert change_convs(network("unet-dilated"), ChangeConvsParams(change="dilate", value=2)) == 10
