"""Training with rounding in place, and the INT8 files that come of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="networks need torch: install the extra 'models'")

from support.compress import (  # noqa: E402 - after the skip
    SIDE,
    kernels,
    network,
    output,
    pictures,
    ptq,
    run,
    ultralytics,
)
from support.shipped import shipped  # noqa: E402

from models import zoo  # noqa: E402
from models.build import VariantRequest, build, calibration  # noqa: E402
from models.data import DataSpec  # noqa: E402
from models.data.training import training_spec  # noqa: E402
from models.errors import BuildFailed, NothingQuantized  # noqa: E402
from models.nets.net import Net, load_net, save_net  # noqa: E402
from models.nets.quant import quant_layers, round_weight  # noqa: E402
from models.nets.tinydet import Residual  # noqa: E402
from models.recipes import Recipe, parse_steps  # noqa: E402
from models.steps import qat  # noqa: E402
from models.steps.base import Step, StepInput, StepResult  # noqa: E402
from models.steps.compress_kinds import QatParams  # noqa: E402
from models.steps.settings import Settings  # noqa: E402
from models.store import ArtifactStore  # noqa: E402
from models.train.detecting import DetectionData  # noqa: E402

pytestmark = pytest.mark.torch

UNET_LAYERS = 18
"""Fourteen 3x3 convolutions, three transposed ones, one 1x1."""
YOLO3_LAYERS = 75


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prepared(net: Net, images: Any, **params: Any) -> Net:
    """With rounding layers that have seen the images."""
    qat.prepare(net, QatParams(**params))
    net.module.train()
    with torch.no_grad():
        net.module(images)
    net.module.eval()
    return net


def outputs(path: Path, images: Any) -> Any:
    session = onnxruntime.InferenceSession(str(path))
    return np.concatenate([session.run(None, {"images": i[None].numpy()})[0] for i in images])


def test_folding_batch_norms_changes_nothing() -> None:
    """The network before rounding computes what it did, without a batch norm."""
    net = network("tinydet")
    images = pictures(1)
    before = output(net, images)
    qat.fuse(net)
    assert not [m for m in net.module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert torch.allclose(output(net, images), before, rtol=1e-4, atol=1e-3)


def test_a_net_with_rounding_is_the_same_after_a_file(tmp_path: Path) -> None:
    """Ranges and weights survive saving and loading to the last bit."""
    net = prepared(network("tinydet"), pictures(2))
    save_net(net, tmp_path / "a.net")
    images = pictures(1, seed=2)
    assert torch.equal(output(load_net(tmp_path / "a.net"), images), output(net, images))


def test_weights_are_rounded_as_the_quantizer_rounds_them() -> None:
    """Each channel has 255 levels around zero, and its largest weight is kept."""
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    rounded = round_weight(weight, axis=0)
    scales = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    assert torch.allclose(rounded / scales, (weight / scales).round(), atol=1e-3)
    assert round_weight(weight, axis=None).unique().numel() <= 255


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "convolutions"), [("tinydet", 34), ("unet", 15), ("yolov3", YOLO3_LAYERS)]
)
def test_the_file_has_the_kernels_and_the_size_of_ptq(
    family: str, convolutions: int, tmp_path: Path
) -> None:
    """Every INT8 kernel that PTQ gets is there, and the sizes differ by less than 2 %.

    ONNX Runtime has no INT8 kernel for transposed convolutions: the U-Net's 18 layers give 15.
    """
    images = pictures(2)
    # the smallest networks are mostly names of nodes, so a wider one is weighed
    wider = {"unet": {"width": 0.5}, "yolov3": {"width": 0.25}}.get(family, {})
    trained = prepared(network(family, **wider), images)
    ours = run("export_int8", trained, tmp_path / "qat").path
    theirs = ptq(network(family, **wider), images, tmp_path / "ptq")
    counted = kernels(ours, tmp_path)
    assert counted["QLinearConv"] == convolutions
    assert counted == kernels(theirs, tmp_path)
    assert ours.stat().st_size == pytest.approx(theirs.stat().st_size, rel=0.02)


@pytest.mark.parametrize("isa", ["x86_64-vnni", "aarch64-dotprod"])
def test_the_file_computes_what_was_trained(isa: str, tmp_path: Path) -> None:
    """Activations of u8 and s8 give the trained network's probabilities to half a percent."""
    net = prepared(network("unet"), pictures(4))
    path = run("export_int8", net, tmp_path, isa=isa).path
    images = pictures(2, seed=3)
    assert np.abs(outputs(path, images) - output(net, images).numpy()).max() < 0.005
    zeros = {i.data_type for i in onnx.load(str(path)).graph.initializer if "zero_point" in i.name}
    wanted = onnx.TensorProto.INT8 if "aarch64" in isa else onnx.TensorProto.UINT8
    assert wanted in zeros


@pytest.mark.slow
def test_qat_beats_ptq_where_channels_are_badly_scaled(tmp_path: Path) -> None:
    """With one weight scale a layer and channels 8 times apart, training halves PTQ's error.

    The scales cancel from layer to layer: in float the network is as good as before. Measured
    on held-out pictures, against the float network's logits.
    """
    side = 16
    net = network("unet", side)
    _spoil(net, 8.0)
    seen, held_out = pictures(64, side), pictures(32, side, seed=9)
    teacher: Any = net.module
    with torch.no_grad():
        wanted, truth = teacher.logits(seen), teacher.logits(held_out)
    by_ptq = ptq(net, seen[:32], tmp_path / "ptq", per_channel=False)
    _learn(net, seen, wanted)
    by_qat = run("export_int8", net, tmp_path / "qat").path

    def error(path: Path) -> float:
        logits = torch.tensor(outputs(path, held_out)).logit()
        return float((logits - truth).pow(2).mean().sqrt() / truth.std())

    assert error(by_ptq) > 0.15
    assert error(by_qat) < 0.75 * error(by_ptq)


def _spoil(net: Net, factor: float) -> None:
    """Enlarge every second channel between two convolutions, and undo it in the second."""
    module: Any = net.module
    ups = [module.decoder.up3.stage, module.decoder.up2.stage, module.decoder.up1.stage]
    downs = [module.encoder.stage1, module.encoder.stage2, module.encoder.stage3]
    for stage in (*downs, module.bottleneck, *ups):
        first, second = (m for m in stage.modules() if isinstance(m, torch.nn.Conv2d))
        _enlarge(first, second, factor)


def _enlarge(first: Any, second: Any, factor: float) -> None:
    """Every second channel that `first` gives, which `second` undoes; a ReLU lies between."""
    scale = torch.ones(first.out_channels)
    scale[::2] = factor
    with torch.no_grad():
        first.weight *= scale[:, None, None, None]
        first.bias *= scale
        second.weight /= scale[None, :, None, None]


def _learn(net: Net, seen: Any, wanted: Any) -> None:
    """Eighty steps towards the float network's logits."""
    qat.prepare(net, QatParams(per_channel=False))
    net.module.train()
    optimizer = torch.optim.Adam(net.module.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(80):
        chosen = torch.randint(0, len(seen), (8,), generator=generator)
        loss = (net.module(seen[chosen]) - wanted[chosen]).pow(2).mean() / wanted.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.module.eval()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_qat_brings_back_the_accuracy_that_ptq_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PTQ costs a spoilt detector over 5 points of mAP50, one epoch of `qat` brings 3 or more back.

    The shipped detector's channels are put 64 times apart, which changes nothing in float, and
    weights have one scale a layer. Here: 0.937 in float, 0.714 by PTQ, 0.884 by QAT.
    """
    real = Step.run

    def start(step: Step, given: StepInput) -> StepResult:
        if step.name != "create":
            return real(step, given)
        save_net(_spoilt_detector(), given.work / "model.net")
        return StepResult(given.work / "model.net")

    monkeypatch.setattr(Step, "run", start)
    val = DataSpec("shapes", split="val")
    training = training_spec(DataSpec("shapes", split="train"), val, 256, tmp_path)
    data = DetectionData(training, Settings(val_images=48), 160)
    seen = [tmp_path / f"{index}.npy" for index in range(24)]
    for index, path in enumerate(seen):
        np.save(path, data.pixels(index).transpose(2, 0, 1)[None].astype(np.float32) / 255)
    spec = zoo.resolve("tinydet", options={"num_classes": 6})
    store = ArtifactStore(tmp_path / "store")

    def map50(*steps: dict[str, Any]) -> float:
        recipe = Recipe("mine", parse_steps(list(steps), "mine"), "")
        request = VariantRequest(
            spec, recipe, "x86_64-vnni", calibration(seen, None), training=training
        )
        path = build(request, store, lambda _text: None).path
        return data.score(_OnnxFile(path), torch.device("cpu"))["map50"]

    full = map50()
    by_ptq = map50({"step": "int8_ptq", "per_channel": False})
    rounded = {"step": "qat", "per_channel": False, "epochs": 1, "lr": 1e-4, "val_images": 0}
    by_qat = map50(rounded, {"step": "export_int8"})
    assert full > 0.9
    assert by_ptq < full - 0.05
    assert by_qat > by_ptq + 0.03


def _spoilt_detector() -> Net:
    """The shipped one with every second channel inside its residual blocks 64 times as large."""
    net = shipped()
    images = pictures(1, side=160)
    before = output(net, images)
    for block in net.module.modules():
        if isinstance(block, Residual):
            _enlarge(block.squeeze[0], block.expand[0], 64.0)
    assert torch.equal(output(net, images), before)  # by a power of two, so nothing is rounded
    return net


class _OnnxFile(torch.nn.Module):
    """A file that gives what the network would have given."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def forward(self, images: Any) -> Any:
        return torch.from_numpy(outputs(self.path, images))


def test_excluded_layers_stay_in_float(tmp_path: Path) -> None:
    """With the encoder excluded its six convolutions have float weights in the file."""
    net = prepared(network("unet"), pictures(2), exclude=("encoder",))
    assert not [name for name in quant_layers(net.module) if name.startswith("encoder.")]
    path = run("export_int8", net, tmp_path).path
    counted = kernels(path, tmp_path)
    assert counted["QLinearConv"] == 15 - 6
    only = network("unet")
    qat.prepare(only, QatParams(only=("encoder",)))
    assert len(quant_layers(only.module)) == 6


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """Rounding twice, exporting what was never rounded, and unknown sections say what to do."""
    net = network("unet")
    with pytest.raises(BuildFailed, match="put `qat` before"):
        run("export_int8", net, tmp_path)
    with pytest.raises(BuildFailed, match=r"backbone.*matches none.*encoder"):
        qat.prepare(network("unet"), QatParams(exclude=("backbone",)))
    with pytest.raises(BuildFailed, match="opposite"):
        qat.prepare(network("unet"), QatParams(exclude=("head",), only=("encoder",)))
    qat.prepare(net, QatParams())
    with pytest.raises(BuildFailed, match="not reached"):
        qat.refuse_unseen(net)
    with pytest.raises(BuildFailed, match="once"):
        qat.prepare(net, QatParams())
    with pytest.raises(NothingQuantized):
        run("export_int8", net, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "convolutions"), [("yolov8n", 63)])
def test_networks_by_ultralytics_are_rounded_too(
    name: str, convolutions: int, tmp_path: Path
) -> None:
    """All convolutions of the file but the decode's are INT8 kernels, as PTQ's are."""
    images = pictures(2)
    net = prepared(ultralytics(name), images)
    counted = kernels(run("export_int8", net, tmp_path / "qat").path, tmp_path)
    assert counted["QLinearConv"] == convolutions == len(quant_layers(net.module))
    assert counted == kernels(ptq(ultralytics(name), images, tmp_path / "ptq"), tmp_path)


def test_a_pruned_net_is_rounded(tmp_path: Path) -> None:
    """Pruning, rounding and exporting leave fewer weights and every layer in INT8."""
    from models.steps import prune  # noqa: PLC0415 - needs the package
    from models.steps.compress_kinds import PruneParams  # noqa: PLC0415

    net = network("unet")
    prune.prune(net, PruneParams(ratio=0.5, round_to=4))
    path = run("export_int8", prepared(net, pictures(2)), tmp_path).path
    assert kernels(path, tmp_path)["QLinearConv"] == 15
    assert outputs(path, pictures(1)).shape == (1, 1, SIDE, SIDE)
