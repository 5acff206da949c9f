"""Step `qat`: a short training of a network that already computes as INT8 will.

The result is a network still; `export_int8` makes a file of it for each kind of board, so that
the training is done once.
"""

from __future__ import annotations

from torch import nn

from models.errors import BuildFailed
from models.nets.arch import Edit
from models.nets.layers import example, followed, learned_layers
from models.nets.net import Net, load_net, save_net
from models.nets.quant import KINDS, quant_layers
from models.steps.base import StepInput, StepResult
from models.steps.compress_kinds import QatParams
from models.steps.edits import add_edit, drop_unused_branch, fuse
from models.train.fit import Teacher, fit


def run(given: StepInput) -> StepResult:
    """Prepare and train; raises BuildFailed, ModelUnreadable, DataError."""
    if given.source is None or given.training is None:
        raise ValueError("a network and training data are needed")
    net = load_net(given.source)
    prepare(net, given.params)
    given.log(f"training with {len(quant_layers(net.module))} layers rounded to 8 bits")
    teacher = None
    if given.params.self_teach:
        teacher = Teacher(load_net(given.source), given.params.self_teach, temperature=1.0)
    curves = fit(net, given.training, given.params, given.log, teacher=teacher, resume=given.resume)
    refuse_unseen(net)
    target = given.work / "model.net"
    save_net(net, target)
    return StepResult(target, curves=curves)


def prepare(net: Net, params: QatParams) -> None:
    """Fold batch norms and put rounding layers in place; raises BuildFailed."""
    if quant_layers(net.module):
        raise BuildFailed("this network's layers are rounded already: name `qat` once")
    drop_unused_branch(net)
    fuse(net)
    layers = _chosen(net, params)
    relus = {conv for conv, _ in followed(net.module, example(net), tuple(KINDS), (nn.ReLU,))}
    edit = {
        "layers": layers,
        "relu": [name for name in layers if name in relus],
        "per_channel": params.per_channel,
        "momentum": params.momentum,
    }
    add_edit(net, Edit("fake_quant", edit))


def _chosen(net: Net, params: QatParams) -> list[str]:
    """Names of the layers to round, in the network's order."""
    if params.only and params.exclude:
        raise BuildFailed("qat: `only` and `exclude` say opposite things; give one")
    layers = learned_layers(net, params.exclude)
    if params.only:
        others = learned_layers(net, params.only)
        layers = {name: layer for name, layer in layers.items() if name not in others}
    chosen = [name for name, layer in layers.items() if type(layer) in KINDS]
    if not chosen:
        raise BuildFailed("qat: no layer is left to round; see `exclude` and `only`")
    return chosen


def refuse_unseen(net: Net) -> None:
    """Raise BuildFailed where a rounding layer never saw a batch: its range is unknown."""
    unseen = [n for n, q in quant_layers(net.module).items() if not bool(q.output_range.seen)]
    if unseen:
        raise BuildFailed(
            f"qat: {len(unseen)} layers were not reached in training, such as {unseen[0]}; "
            "exclude them, or train for at least one batch"
        )
