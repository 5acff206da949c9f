"""Changes a network's structure, and writes down how."""

from __future__ import annotations

import importlib

import msgspec
import torch
from torch import nn

from models.errors import BuildFailed
from models.nets.arch import Edit
from models.nets.layers import example, followed
from models.nets.net import Net
from models.nets.registry import EDITS

_CUT_IN_TWO = ("C2f", "C3k2", "RepNCSPELAN4", "ELAN1")
_PARALLEL = ("RepConv",)
_SECOND_BRANCH = "one2one_cv2"
"""ultralytics' blocks and attributes, by name: it is not imported for networks without them."""


def add_edit(net: Net, edit: Edit) -> None:
    """Apply an edit to the module and append it to the description."""
    importlib.import_module(EDITS[edit.kind]).apply(net.module, edit.params)
    net.arch = msgspec.structs.replace(net.arch, edits=(*net.arch.edits, edit))


def drop_unused_branch(net: Net) -> None:
    """Take out a head's branch that gives nothing: no rounding or pruning could reach it."""
    names = [
        name
        for name, module in net.module.named_modules()
        if getattr(module, _SECOND_BRANCH, None) is not None
    ]
    if names:
        add_edit(net, Edit("one_branch", {"modules": names}))


def split_chunks(net: Net) -> None:
    """Let two convolutions make what one made and a `chunk` cut in two."""
    names = _of_class(net.module, _CUT_IN_TWO)
    if names:
        add_edit(net, Edit("split_chunks", {"modules": names}))


def merge_branches(net: Net) -> None:
    """Let one convolution compute what parallel ones add up to."""
    names = _of_class(net.module, _PARALLEL)
    if names:
        add_edit(net, Edit("merge_branches", {"modules": names}))


def fuse(net: Net) -> None:
    """Merge parallel branches and fold batch norms; raises BuildFailed if the output changes."""
    images = example(net)
    with torch.no_grad():
        before = net.module.eval()(images)
    merge_branches(net)
    pairs = followed(net.module, images, (nn.Conv2d, nn.ConvTranspose2d), (nn.BatchNorm2d,))
    if pairs:
        add_edit(net, Edit("fuse_bn", {"pairs": [list(pair) for pair in pairs]}))
    with torch.no_grad():
        after = net.module.eval()(images)
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise BuildFailed(
            f"folding {len(pairs)} batch norms changed the output by "
            f"{float((before - after).abs().max()):.3g}: a convolution's output is read twice"
        )


def _of_class(module: nn.Module, names: tuple[str, ...]) -> list[str]:
    return [name for name, m in module.named_modules() if type(m).__name__ in names]
