"""Structured pruning: what goes, what stays, and that the rest still fits together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="networks need torch: install the extra 'models'")
pytest.importorskip("torch_pruning", reason="pruning needs torch-pruning: the extra 'models'")

from support.compress import (  # noqa: E402 - after the skip
    network,
    output,
    parameters,
    pictures,
    run,
    ultralytics,
)
from support.shipped import shipped  # noqa: E402

from models.data import DataSpec  # noqa: E402
from models.data.training import training_spec  # noqa: E402
from models.errors import BuildFailed  # noqa: E402
from models.nets.layers import learned_layers, output_layers  # noqa: E402
from models.nets.net import Net, load_net, save_net  # noqa: E402
from models.steps import qat  # noqa: E402
from models.steps.compress_kinds import CapWidthParams, PruneParams, QatParams  # noqa: E402
from models.steps.edits import split_chunks  # noqa: E402
from models.steps.prune import prune  # noqa: E402
from models.steps.settings import Settings  # noqa: E402
from models.train.fit import data_of, fit  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("family", ["tinydet", "yolov3", "unet"])
def test_a_pruned_net_is_the_same_after_a_file(family: str, tmp_path: Path) -> None:
    """Sums, skips and heads still fit, and the file gives the very same outputs back."""
    net = network(family)
    images, before = pictures(1), parameters(net)
    shape = output(net, images).shape
    prune(net, PruneParams(ratio=0.5, round_to=2))
    assert parameters(net) < 0.45 * before
    save_net(net, tmp_path / "a.net")
    loaded = load_net(tmp_path / "a.net")
    assert output(net, images).shape == shape
    assert torch.equal(output(loaded, images), output(net, images))


@pytest.mark.parametrize("family", ["unet-group", "unet-lite", "unet-separable", "unet-deform"])
def test_a_net_with_groups_is_pruned_around_them(family: str, tmp_path: Path) -> None:
    """What goes into groups and comes out of them stays, the rest goes, and all fits together."""
    net = network(family)
    images, before = pictures(1), parameters(net)
    shape = output(net, images).shape
    prune(net, PruneParams(ratio=0.3, round_to=1))
    assert parameters(net) < before
    save_net(net, tmp_path / "a.net")
    assert output(net, images).shape == shape
    assert torch.equal(output(load_net(tmp_path / "a.net"), images), output(net, images))


def test_layers_that_keep_their_outputs_are_counted() -> None:
    """At a high ratio narrow layers have no multiple of 8 left and keep all, which is told."""
    net = network("tinydet")
    layers: dict[str, Any] = learned_layers(net)
    before = {name: layer.out_channels for name, layer in layers.items()}
    narrower, asked = prune(net, PruneParams(ratio=0.8))
    after = {name: layer.out_channels for name, layer in layers.items()}
    assert (narrower, asked) == (sum(after[name] < before[name] for name in before), len(before))
    assert after["stage4.0.0"] == before["stage4.0.0"] == 32
    with pytest.raises(BuildFailed, match="fewer than 8 outputs left; give another ratio"):
        prune(network("tinydet"), PruneParams(ratio=0.99))


def test_the_parameters_are_those_expected() -> None:
    """TinyDet at ratio 0.3 in multiples of 8 keeps 326,198 of its 769,998 parameters."""
    net = network("tinydet")
    assert parameters(net) == 769_998
    prune(net, PruneParams(ratio=0.3))
    assert parameters(net) == 326_198


def test_the_last_layers_keep_their_outputs() -> None:
    """Box and class maps mean something: they are found, and not pruned."""
    net = network("tinydet")
    last = output_layers(net.module, pictures(1))
    assert last == [f"heads.{scale}.{kind}" for scale in range(3) for kind in ("box", "cls")]
    prune(net, PruneParams(ratio=0.5))
    layers: dict[str, Any] = learned_layers(net)
    assert [layers[name].out_channels for name in last] == [4, 6] * 3


def test_unimportant_channels_go() -> None:
    """Of channels with tiny weights nothing is left, and the output hardly changes."""
    net = network("unet")
    module: Any = net.module
    first, _, second, _ = module.encoder.stage1
    with torch.no_grad():
        first.weight[::2] *= 1e-4
        second.weight[:, ::2] *= 1e-4
    kept = first.weight[1::2].clone()
    images = pictures(1)
    before = output(net, images)
    others = tuple(name for name in learned_layers(net) if name != "encoder.stage1.0")
    prune(net, PruneParams(ratio=0.5, round_to=1, exclude=others))
    assert torch.equal(module.encoder.stage1[0].weight, kept)
    assert (output(net, images) - before).abs().max() < 1e-4


def test_excluded_sections_keep_their_widths() -> None:
    """A section that is excluded has all its outputs afterwards."""
    net = network("unet")
    wide: dict[str, Any] = learned_layers(net)
    widths = {n: layer.out_channels for n, layer in wide.items() if n.startswith("decoder.")}
    prune(net, PruneParams(ratio=0.5, round_to=2, exclude=("decoder",)))
    after: dict[str, Any] = learned_layers(net)
    assert {n: after[n].out_channels for n in widths} == widths
    assert parameters(net) < parameters(network("unet"))


def test_no_layer_is_wider_than_the_cap() -> None:
    """cap_width leaves no layer above the limit, the last ones excepted."""
    net = network("tinydet")
    prune(net, CapWidthParams(max_channels=48))
    assert max(layer.out_channels for layer in _layers(net)) == 48


def _layers(net: Any) -> list[Any]:
    return list(learned_layers(net).values())


def test_what_cannot_be_pruned_is_refused() -> None:
    """Nothing to take out, unknown sections and rounded networks say what to do."""
    all_but_head = ("encoder", "bottleneck", "decoder")
    with pytest.raises(BuildFailed, match="nothing was taken out"):
        prune(network("unet"), PruneParams(exclude=all_but_head))
    with pytest.raises(BuildFailed, match="no layer is left to prune"):
        prune(network("unet"), PruneParams(exclude=(*all_but_head, "head")))
    with pytest.raises(BuildFailed, match="no layer is left to prune"):
        prune(network("unet"), CapWidthParams(max_channels=512))
    with pytest.raises(BuildFailed, match="matches none"):
        prune(network("unet"), PruneParams(exclude=("nose",)))
    net = network("unet")
    qat.prepare(net, QatParams())
    with pytest.raises(BuildFailed, match="prune before `qat`"):
        prune(net, PruneParams())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolov9t"])
def test_halves_of_a_convolution_compute_exactly_the_same(name: str, tmp_path: Path) -> None:
    """Two convolutions in place of one and a chunk: no output differs, also after a file."""
    net = ultralytics(name)
    images = pictures(1)
    before = output(net, images)
    split_chunks(net)
    assert net.arch.edits[0].params["modules"]
    assert torch.equal(output(net, images), before)
    save_net(net, tmp_path / "a.net")
    assert torch.equal(output(load_net(tmp_path / "a.net"), images), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("yolov8n", 3_157_200, 1_719_976),
        ("yolo26n", 2_572_280, 1_477_108),
        ("yolov9t", 2_128_720, 1_116_280),
    ],
)
def test_networks_by_ultralytics_are_pruned(
    name: str, before: int, after: int, tmp_path: Path
) -> None:
    """C2f, attention and ELAN fit together with fewer parameters, also in a file."""
    net = ultralytics(name)
    assert parameters(net) == before
    prune(net, PruneParams(ratio=0.3, exclude=("head",)))
    assert parameters(net) == after
    assert_exported_as_it_computes(net, tmp_path)


@pytest.mark.slow
def test_networks_whose_blocks_cut_their_input_are_pruned(tmp_path: Path) -> None:
    """YOLOv9-c's five ADown keep the halves that they read and give less, also in a file."""
    net = ultralytics("yolov9c", num_classes=6, width=0.125)
    before, read, given = parameters(net), *_halves(net)
    assert len(read) == 5
    prune(net, PruneParams(ratio=0.3, round_to=4, exclude=("head",)))
    left, gives = _halves(net)
    assert left == read
    assert all(now < was for now, was in zip(gives, given, strict=True))
    assert parameters(net) < 0.8 * before
    assert_exported_as_it_computes(net, tmp_path)


def _halves(net: Net) -> tuple[list[int], list[int]]:
    """Channels that each ADown's first half reads, and those that both give."""
    blocks: list[Any] = [m for m in net.module.modules() if type(m).__name__ == "ADown"]
    assert all(b.cv1.conv.in_channels == b.cv2.conv.in_channels for b in blocks)
    read = [b.cv1.conv.in_channels for b in blocks]
    return read, [b.cv1.conv.out_channels + b.cv2.conv.out_channels for b in blocks]


def assert_exported_as_it_computes(net: Net, folder: Path) -> None:
    """Saved, loaded and exported it gives the same boxes to a hundredth of a pixel."""
    images = pictures(1)
    save_net(net, folder / "a.net")
    path = run("export_net", folder / "a.net", folder).path
    (ours,) = onnxruntime.InferenceSession(str(path)).run(None, {"images": images.numpy()})
    assert np.abs(ours - output(net, images).numpy()).max() < 1e-2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pruned_net_still_detects(tmp_path: Path) -> None:
    """Pruning costs the shipped detector most of its mAP, a short fine-tuning brings it back."""
    train, val = DataSpec("shapes", split="train"), DataSpec("shapes", split="val")
    training = training_spec(train, val, 256, tmp_path)
    settings = Settings(
        epochs=2, batch=16, lr=1e-3, warmup_steps=4, ema=0.9, val_images=48, amp="off"
    )
    net = shipped()
    data = data_of(net, training, settings)
    scores = [data.score(net.module.eval(), torch.device("cpu"))["map50"]]
    prune(net, PruneParams(ratio=0.25, exclude=("head",)))
    scores.append(data.score(net.module.eval(), torch.device("cpu"))["map50"])
    fit(net, training, settings, lambda _text: None)
    scores.append(data.score(net.module.eval(), torch.device("cpu"))["map50"])
    assert scores[0] > 0.9
    assert parameters(net) < 0.65 * 769_998
    assert scores[2] > 0.55
    assert scores[2] > scores[1] + 0.2
