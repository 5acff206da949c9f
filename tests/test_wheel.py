"""What is shipped: the wheel has the four packages with their data, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("agent", "models", "orchestrator", "results", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources, so that the build leaves nothing beside them."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in SHIPPED:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", built, source]
    subprocess.run(argv, check=True, timeout=300, capture_output=True)
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_has_packages_and_data_only(wheel: zipfile.ZipFile) -> None:
    """Experiments, recipes, weights and the board's pins are inside; tests are not."""
    names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"agent", "models", "orchestrator", "results"}
    for wanted in (
        "agent/requirements.lock",
        "models/recipes/int8_ptq.yaml",
        "models/weights/tinydet.onnx",
        "orchestrator/experiments/demo.yaml",
        "agent/py.typed",
    ):
        assert wanted in names
    assert not [name for name in names if name.endswith(".pyc")]
