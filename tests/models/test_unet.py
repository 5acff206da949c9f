"""The U-Net family: sizes beside the published ones, what a segmenter gives, and its export."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `models` (torch)")
import onnx  # noqa: E402 - without torch nothing here can run
import onnxruntime  # noqa: E402

from models.nets.arch import Arch  # noqa: E402
from models.nets.net import Net, build_net, load_net, save_net  # noqa: E402
from models.nets.registry import FAMILIES  # noqa: E402
from models.nets.unet_stages import STAGES, _shuffled  # noqa: E402
from models.onnxfile import describe  # noqa: E402
from models.steps.export_net import export_onnx  # noqa: E402
from models.steps.graph import decode_nodes  # noqa: E402

pytestmark = pytest.mark.torch

FAMILY = tuple(name for name, family in FAMILIES.items() if family.module == "models.nets.unet")


def small(family: str, imgsz: int = 32, **options: Any) -> Net:
    """A network of a quarter of the width, in eval mode."""
    every = {**FAMILIES[family].options, "width": 0.25, **options}
    net = build_net(Arch(family=family, options=every, imgsz_px=imgsz, class_names=("blob",)))
    net.module.eval()
    return net


@pytest.mark.parametrize(
    ("family", "parameters", "published"),
    [
        ("unet", 1_925_601, 1_925_601),
        ("unet-dilated", 1_925_601, 1_925_601),
        ("unet-lite", 1_075_425, 1_075_265),
        ("unet-group", 847_329, 845_637),
        ("unet-shuffle", 338_673, 338_705),
        ("unet-fire", 333_885, None),
        ("unet-separable", 382_143, None),
        ("unet-deform", 1_987_836, None),
    ],
)
def test_the_sizes_are_the_published_ones_or_near(
    family: str, parameters: int, published: int | None
) -> None:
    """Base and dilated to the digit, lite and shuffle within 0.02 %, group within 0.3 %."""
    net = small(family, width=1.0)
    assert sum(p.numel() for p in net.module.parameters()) == parameters
    if published is not None:
        allowed = {"unet-group": 0.003, "unet-lite": 0.0002, "unet-shuffle": 0.0002}
        assert abs(parameters / published - 1) <= allowed.get(family, 0.0)


@pytest.mark.parametrize("family", FAMILY)
def test_training_gives_logits_and_eval_their_probabilities(family: str) -> None:
    """One class at the input's size, for sizes that are multiples of 8 and not square too."""
    net = small(family)
    images = torch.rand(2, 3, 40, 24)
    with torch.no_grad():
        logits = net.module.train()(images)
        probabilities = net.module.eval()(images)
    assert tuple(logits.shape) == tuple(probabilities.shape) == (2, 1, 40, 24)
    assert torch.equal(logits.sigmoid(), probabilities)
    assert float(logits.std()) > 1e-3


@pytest.mark.parametrize("family", FAMILY)
def test_every_parameter_learns(family: str) -> None:
    """A loss reaches every weight: no layer is built and left out."""
    net = small(family)
    net.module.train()(torch.rand(2, 3, 32, 32)).square().mean().backward()
    idle = [
        name
        for name, value in net.module.named_parameters()
        if value.grad is None or not value.grad.abs().sum() > 0
    ]
    assert idle == []


@pytest.mark.parametrize("family", FAMILY)
def test_the_export_computes_the_same_and_names_its_parts(tmp_path: Path, family: str) -> None:
    """The ONNX file equals the saved network; each convolution has a section, only decode none."""
    net = small(family)
    if family == "unet-deform":
        deformable = net.module.bottleneck[2]
        torch.nn.init.normal_(deformable.offset.weight, std=0.1)  # sample between the pixels
    save_net(net, tmp_path / "small.net")
    path = tmp_path / "small.onnx"
    export_onnx(load_net(tmp_path / "small.net"), path, 17)
    images = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net.module(torch.from_numpy(images)).numpy()
    assert np.allclose(session.run(None, {"images": images})[0], expected, atol=1e-3)
    model = onnx.load(str(path))
    assert decode_nodes(model.graph) == {"/decode/Sigmoid"}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["task"] == "segment"
    patterns = json.loads(metadata["sections"])
    assert list(patterns) == ["encoder", "bottleneck", "decoder", "head"]
    for node in model.graph.node:
        matched = [
            section
            for section, known in patterns.items()
            if any(fnmatchcase(node.name, pattern) for pattern in known)
        ]
        if "Conv" in node.op_type:
            assert len(matched) == 1, node.name


@pytest.mark.parametrize("family", ["unet", "unet-dilated"])
def test_the_file_has_the_published_number_of_parameters(tmp_path: Path, family: str) -> None:
    """Exactly 1,925,601 in the ONNX file too, although its untrained biases are all alike."""
    export_onnx(small(family, width=1.0), tmp_path / "net.onnx", 17)
    assert describe(tmp_path / "net.onnx").parameters == 1_925_601


def test_dilation_widens_the_view_at_no_parameter() -> None:
    """One pixel of the dilated network depends on more of the input than the base's does."""

    def seen(family: str) -> int:
        images = torch.rand(1, 3, 128, 128, requires_grad=True)
        small(family).module.train()(images)[0, 0, 64, 64].backward()
        grad = images.grad
        return int((grad.abs().sum(dim=1) > 0).sum())

    assert seen("unet-dilated") > 1.3 * seen("unet")


def test_shuffling_lets_every_group_see_each_other() -> None:
    """With two groups, channels 0 1 2 3 4 5 become 0 3 1 4 2 5."""

    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert _shuffled(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_the_network_learns_a_mask_in_a_few_steps() -> None:
    """Kaiming's start trains: in 40 steps of batch 4 the loss on bright squares falls by half."""
    torch.manual_seed(0)
    net = small("unet")
    module = net.module.train()
    images = torch.rand(4, 3, 32, 32) * 0.4
    masks = torch.zeros(4, 1, 32, 32)
    for index in range(4):
        images[index, :, 4 + index : 16 + index, 8:20] += 0.6
        masks[index, :, 4 + index : 16 + index, 8:20] = 1
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(module(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("options", "imgsz", "words"),
    [
        ({}, 100, "must be a multiple of 8"),
        ({"width": -1}, 32, "must be above 0"),
        ({"num_classes": 0}, 32, "must be above 0"),
    ],
)
def test_an_impossible_option_is_refused_in_words(
    options: dict[str, Any], imgsz: int, words: str
) -> None:
    """Size, width and classes are checked before anything is built."""
    with pytest.raises(ValueError, match=words):
        small("unet", imgsz, **options)


def test_the_variants_share_one_set_of_stages() -> None:
    """Each family of the registry has its stage, and no stage lacks its family."""
    named = {name.removeprefix("unet").removeprefix("-") for name in FAMILY}
    assert named == set(STAGES)
