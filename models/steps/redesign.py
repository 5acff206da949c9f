"""Steps `swap_activation` and `change_convs`: a network of another design; training follows."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.errors import BuildFailed
from models.nets.arch import Edit
from models.nets.edits.activation import find
from models.nets.layers import learned_layers
from models.nets.net import Net, load_net, save_net
from models.nets.quant import quant_layers
from models.steps.base import StepInput, StepResult
from models.steps.compress_kinds import ChangeConvsParams, SwapActivationParams
from models.steps.edits import add_edit, merge_branches
from models.steps.prune import count


def run(given: StepInput) -> StepResult:
    """Change the network as the parameters say; raises BuildFailed, ModelUnreadable."""
    if given.source is None:
        raise ValueError("a network is needed")
    net = load_net(given.source)
    before = count(net.module)
    if quant_layers(net.module):
        raise BuildFailed("this network's layers are rounded to 8 bits: redesign it before `qat`")
    if isinstance(given.params, SwapActivationParams):
        changed = swap_activation(net, given.params)
    else:
        changed = change_convs(net, given.params)
    given.log(f"{changed} layers changed: {before} -> {count(net.module)} parameters")
    target = given.work / "model.net"
    save_net(net, target)
    return StepResult(target)


def swap_activation(net: Net, params: SwapActivationParams) -> int:
    """Replace activations in place; returns how many. Raises BuildFailed where there are none."""
    found = sum(len(find(parent, list(params.old))) for parent in net.module.modules())
    if not found:
        kinds = {type(m).__name__ for m in net.module.modules() if _is_activation(m)}
        raise BuildFailed(
            f"swap_activation: the network has no {' or '.join(params.old)}; it has "
            f"{', '.join(sorted(kinds)) or 'none as a module'}"
        )
    edit = {"old": list(params.old), "new": params.new, "slope": params.slope}
    add_edit(net, Edit("activation", edit))
    return found


def change_convs(net: Net, params: ChangeConvsParams) -> int:
    """Change the k x k convolutions that it is possible for; returns how many."""
    merge_branches(net)
    layers = learned_layers(net, params.exclude)
    chosen = [n for n, layer in layers.items() if _fits(layer, params)]
    if not chosen:
        raise BuildFailed(
            f"change_convs: no convolution fits {params.change} {params.value}: it takes plain "
            "k x k convolutions, and groups have to divide their channels"
        )
    edit = {"change": params.change, "layers": chosen, "value": params.value}
    add_edit(net, Edit("convolutions", edit))
    return len(chosen)


def _fits(layer: Any, params: ChangeConvsParams) -> bool:
    if type(layer) is not nn.Conv2d or layer.groups != 1 or min(layer.kernel_size) == 1:
        return False
    if params.change == "dilate":
        plain = max(layer.stride) == 1 and all(k % 2 for k in layer.kernel_size)
        return plain and set(layer.dilation) != {params.value}
    if params.change == "separable":
        return True
    return params.value > 1 and not (
        layer.in_channels % params.value or layer.out_channels % params.value
    )


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"
