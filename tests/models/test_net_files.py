"""Files of format `net`: the same bytes for the same network, and readable by later versions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `models` (torch)")
import safetensors.torch  # noqa: E402 - without torch nothing here can run

from models.nets.arch import Arch, read_header  # noqa: E402
from models.nets.net import Net, build_net, load_net, save_net  # noqa: E402
from models.onnxfile import describe  # noqa: E402
from models.spec import file_digest  # noqa: E402
from models.steps.export_net import export_onnx  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def net() -> Net:
    options = {"num_classes": 2, "width": 0.25}
    return build_net(
        Arch(family="unet", options=options, imgsz_px=32, class_names=("고양이", "개"))
    )


def test_equal_networks_are_equal_files(net: Net, tmp_path: Path) -> None:
    """A network that is written twenty times has one digest, so that one key leads to one file."""
    digests = set()
    for index in range(20):
        save_net(net, tmp_path / str(index))
        digests.add(file_digest(tmp_path / str(index)))
    assert len(digests) == 1


def test_a_file_of_an_older_version_is_read(net: Net, tmp_path: Path) -> None:
    """Files whose description stands under two keys give the same header and weights."""
    state = net.module.state_dict()
    count = sum(p.numel() for p in net.module.parameters())
    metadata = {"arch": msgspec.json.encode(net.arch).decode(), "parameters": str(count)}
    safetensors.torch.save_file(state, str(tmp_path / "old"), metadata)
    save_net(net, tmp_path / "new")
    assert read_header(tmp_path / "old") == read_header(tmp_path / "new")
    assert read_header(tmp_path / "old").parameters == count
    again = load_net(tmp_path / "old").module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.items())


@pytest.mark.parametrize("imgsz_px", [64, 96])
def test_an_exported_detector_has_its_own_parameters(imgsz_px: int, tmp_path: Path) -> None:
    """Those of the network less a number a folded channel, at every input size."""
    arch = Arch(
        family="tinydet", options={"num_classes": 6}, imgsz_px=imgsz_px, class_names=("a",) * 6
    )
    export_onnx(build_net(arch), tmp_path / "net.onnx", 17)
    assert describe(tmp_path / "net.onnx").parameters == 769_998 - 1_584
