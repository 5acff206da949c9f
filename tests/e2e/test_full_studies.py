"""The published studies at full size, whole networks and every step, with fewer repetitions.

What a `full` run does for days is done here in minutes: one epoch for each training, a handful of
images, short trials. Nothing else is changed: networks, input sizes, options, steps, optimizers,
recipes and their order are those of the shipped files. Accuracy means nothing after one epoch, so
none is asserted. Recipes for LiteRT need the converter and are left out where it is absent.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import importlib.util
import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image
from support.cli import Desk, desk, table

from models.build import find_cached
from models.data import DataSpec, load
from models.data.blobs import write_blobs
from models.data.draw import CLASS_NAMES
from models.data.shapes import write_shapes
from models.data.voc import VOC_CLASSES
from models.spec import StepSpec
from models.steps.isa import host_isa
from models.store import Artifact, ArtifactStore, Manifest
from orchestrator import experiment as experiments
from orchestrator import experimentfile
from orchestrator.assign import requests
from orchestrator.experiment import Experiment
from orchestrator.prepare import resolve
from orchestrator.studies.published import Study, studies
from orchestrator.workspace import Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torch,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("torch", "ultralytics")),
        reason="torch and ultralytics are not installed (extra 'models')",
    ),
]

SHIPPED = importlib.resources.files("orchestrator") / "experiments"
LITERT = all(importlib.util.find_spec(name) for name in ("litert_torch", "ai_edge_litert"))
SHORT = {
    "name": "short",
    "min_samples": 2,
    "min_duration_s": 0,
    "max_duration_s": 60,
    "warmup_min_samples": 1,
    "warmup_min_duration_s": 0,
}
TRAIN, SCORED = 2, 2
"""Images: fewer than any batch that was published."""
DETECTED = {"map50", "map50_95"}
LARGER = 2
"""Times as large as they are drawn: about as large as photographs of VOC and COCO."""
VOC_SHARES = {
    "int8_ptq": 0.252, "qat": 0.252, "int8_backbone": 0.506, "int8_neck": 0.820, "int8_head": 0.921
}  # fmt: skip
"""Sizes of the VOC study's files relative to its baseline."""
UNETS = {
    "unet": 1_925_601, "unet-dilated": 1_925_601, "unet-lite": 1_075_425, "unet-group": 847_329,
    "unet-shuffle": 338_673, "unet-fire": 333_885, "unet-lite-distilled": 1_075_425,
}  # fmt: skip
STAND_INS = """
import json, sys
from ultralytics import YOLO
from ultralytics.utils import ROOT, YAML
names = YAML.load(ROOT / "cfg/datasets/coco.yaml")["names"]
for name in sys.argv[1:]:
    model = YOLO(f"{name}.yaml")
    model.model.names = names
    model.save(f"{name}.pt")
print(json.dumps(list(names.values())))
"""


# ---------------------------------------------------------------- studies with fewer repetitions


def quick(value: Any) -> Any:
    """The same document with one epoch wherever a step has some."""
    if isinstance(value, list):
        return [quick(each) for each in value]
    if isinstance(value, dict):
        short = {"epochs": 1} if "step" in value and "epochs" in value else {}
        return {key: quick(each) for key, each in value.items()} | short
    return value


def place_study(place: Desk, name: str) -> Path:
    """A study's file in the workspace, its amounts cut."""
    document = quick(yaml.safe_load(SHIPPED.joinpath(f"{name}.yaml").read_text()))
    full = document["scales"]["full"]
    full |= {"profile": SHORT, "blocks": 1, "cooldown": None}
    if "scenario" in full:
        full["scenario"]["duration_s"] = 2
    path = place.root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


# ---------------------------------------------------------------- data as a user has it


def photographs(root: Path) -> Path:
    """Drawn images in VOC's layout as JPEG files, about as large as photographs of VOC and COCO."""
    write_shapes(root, {"train": TRAIN, "val": SCORED})
    for file in (root / "JPEGImages").glob("*.png"):
        with Image.open(file) as image:
            image.resize((image.width * LARGER, image.height * LARGER)).save(
                file.with_suffix(".jpg")
            )
        file.unlink()
    for file in (root / "Annotations").glob("*.xml"):
        text = file.read_text().replace(".png<", ".jpg<")
        tree = ElementTree.fromstring(text)  # noqa: S314 - written above
        for element in tree.iter():
            if element.tag in ("width", "height", "xmin", "ymin", "xmax", "ymax"):
                element.text = str(round(float(element.text or 0) * LARGER))
        file.write_text(ElementTree.tostring(tree, encoding="unicode"))
    return root


def voc_folder(root: Path) -> Path:
    """The photographs, their objects called by six of VOC's names, `val` called `test`."""
    photographs(root)
    (root / "classes.txt").unlink()
    (root / "ImageSets/Main/val.txt").rename(root / "ImageSets/Main/test.txt")
    for file in (root / "Annotations").glob("*.xml"):
        text = file.read_text()
        for number, shape in enumerate(CLASS_NAMES):
            text = text.replace(f">{shape}<", f">{VOC_CLASSES[3 * number]}<")
        file.write_text(text)
    return root


def coco_folder(root: Path, names: list[str]) -> Path:
    """The photographs as COCO publishes its own: two JSON files, 80 categories, gaps in the ids."""
    drawn = photographs(root / "drawn")
    ids = [1 + at + at // 10 for at in range(len(names))]
    categories = [{"id": each, "name": name} for each, name in zip(ids, names, strict=True)]
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir()
        images: list[dict[str, object]] = []
        boxes: list[dict[str, object]] = []
        for number, image in enumerate(load(DataSpec(str(drawn), "voc", split), root).images, 1):
            image.path.rename(root / f"{split}2017" / image.path.name)
            size = {"width": image.width, "height": image.height}
            images.append({"id": number, "file_name": image.path.name, **size})
            for box in image.boxes:
                corners = [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]
                kind = ids[13 * box.class_index]
                boxes.append({"image_id": number, "category_id": kind, "bbox": corners})
        told = {"images": images, "annotations": boxes, "categories": categories}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(told))
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A workspace with this machine as a board, the data, and stand-ins for trained weights."""
    with pytest.MonkeyPatch.context() as patch, desk(tmp_path_factory.mktemp("full")) as made:
        patch.setenv("YOLO_OFFLINE", "true")
        patch.setenv("YOLO_CONFIG_DIR", str(made.root))
        told = subprocess.run(
            [sys.executable, "-c", STAND_INS, "yolov8n", "yolov9c"],
            cwd=made.root,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        voc_folder(made.root / "voc")
        coco_folder(made.root / "coco", json.loads(told.stdout.splitlines()[-1]))
        write_blobs(made.root / "cells", {"train": TRAIN, "val": SCORED})
        yield made


# ---------------------------------------------------------------- a study from command to files


@dataclasses.dataclass(frozen=True)
class Done:
    """What a study left: each artifact and how its trial ended, by (model, recipe)."""

    artifacts: dict[tuple[str, str], Artifact]
    trials: dict[tuple[str, str], str]

    def manifest(self, model: str, recipe: str) -> Manifest:
        """How an artifact was made and what is in it."""
        return self.artifacts[model, recipe].manifest

    def fused(self, model: str, recipe: str) -> int:
        """Convolutions of an artifact that ONNX Runtime computes in INT8."""
        kernels = self.manifest(model, recipe).fused_kernels or {}
        return sum(kernels.get(name, 0) for name in ("QLinearConv", "ConvInteger"))

    def share(self, model: str, recipe: str, of: str = "fp32") -> float:
        """An artifact's size as a share of another's."""
        return self.artifacts[model, recipe].size_bytes / self.artifacts[model, of].size_bytes

    def formats(self, model: str) -> dict[str, str]:
        """What kind of file each recipe gave."""
        return {name: a.format for (of, name), a in self.artifacts.items() if of == model}


def run_study(place: Desk, name: str, data: str, recipes: tuple[str, ...] | None = None) -> Done:
    """Build, measure and score a study by the command that a user types."""
    path = place_study(place, name)
    words = ["run", f"./{path.name}", "--scale", "full", "--data", data, "--boards", "here"]
    if recipes is not None:
        words += ["--recipes", ",".join(recipes)]
    result = place.run(*words, "--json", timeout_s=880)
    assert result.returncode == 0, result.stderr
    whole = experimentfile.load(name, place.root, "full")
    cut = experimentfile.read(path, "full")
    assert like_published(cut) == like_published(whole)
    experiment = experiments.with_data(cut, data, place.root)
    if recipes is not None:
        experiment = experiments.with_recipes(experiment, recipes)
    workspace = Workspace(place.root / "inventory.yaml")
    prepared = resolve(experiment, workspace, lambda _: None)
    store = ArtifactStore(workspace.models)
    artifacts = {}
    for (model, recipe, _), request in requests(prepared, [host_isa()]).items():
        found = find_cached(request, store)
        assert found is not None, (model, recipe)
        artifacts[model, recipe] = found
    assert artifacts.keys() == set(experiment.variants())
    for artifact in artifacts.values():
        assert_learned(artifact.manifest, {"dice", "iou"} if data == "cells" else DETECTED)
    run_id = table(result)["run_id"]
    rows = place.rows("SELECT run_id, model, recipe, state FROM v_trials")
    trials = {(r["model"], r["recipe"]): r["state"] for r in rows if r["run_id"] == run_id}
    assert trials == dict.fromkeys(artifacts, "finished")
    if recipes is None and name in studies():
        assert_reported(place.run("report", run_id).stdout, studies()[name])
    return Done(artifacts, trials)


def assert_reported(page: str, study: Study) -> None:
    """Every published row stands beside a file that was made here."""
    for row in study.rows:
        label = re.escape(f"| {row.label} |")
        assert re.search(rf"^{label} \S+ \| \d\.\d{{3}} \|", page, re.MULTILINE), row.label


def assert_learned(manifest: Manifest, metrics: set[str]) -> None:
    """Every training on the way left a loss and scores, all of them numbers."""
    trainings = sum("epochs" in step.params for step in manifest.steps)
    names = Counter((point.split, point.metric) for point in manifest.curves)
    wanted = {("train", "loss"), *(("val", metric) for metric in metrics)} if trainings else set()
    assert names == dict.fromkeys(wanted, trainings)
    assert all(math.isfinite(point.value) for point in manifest.curves)


def steps(manifest: Manifest) -> list[str]:
    return [step.name for step in manifest.steps]


def like_published(experiment: Experiment) -> Any:
    """What has to be the same however many repetitions there are."""

    def kept(found: tuple[StepSpec, ...]) -> list[Any]:
        return [(s.name, {k: v for k, v in s.params.items() if k != "epochs"}) for s in found]

    models = [
        (m.name, m.reference, m.imgsz, m.options, kept(m.steps), m.recipes)
        for m in experiment.models
    ]
    own = [(recipe.name, recipe.runtime, kept(recipe.steps)) for recipe in experiment.own_recipes]
    sources = (experiment.data, experiment.calibration, experiment.training)
    return models, experiment.recipes, own, sources, experiment.baseline, experiment.scenario.name


def test_yolov3_on_voc(place: Desk) -> None:
    """The whole network at 416 px is trained, cut into sections and has the published sizes."""
    done = run_study(place, "yolov3-voc-quantization", "voc")
    plain = done.manifest("yolov3", "fp32")
    assert plain.inputs["images"].shape == (1, 3, 416, 416)
    assert plain.parameters == pytest.approx(61.6e6, rel=0.01)
    assert steps(done.manifest("yolov3", "qat")) == ["create", "train", "qat", "export_int8"]
    for recipe, share in VOC_SHARES.items():
        assert done.share("yolov3", recipe) == pytest.approx(share, rel=0.02), recipe
    fused = {recipe: done.fused("yolov3", recipe) for recipe in done.formats("yolov3")}
    parts = [fused[recipe] for recipe in ("int8_backbone", "int8_neck", "int8_head")]
    assert fused["fp32"] == 0
    assert all(parts)
    assert fused["int8_ptq"] == fused["qat"] == sum(parts) == 75


def test_yolov9_on_coco(place: Desk) -> None:
    """YOLOv9-c at 640 px is made in every form, pruned by a fifth, and redesigned."""
    done = run_study(place, "yolov9-deployment", "coco")
    kinds = {"fp32": "onnx", "ort_format": "ort", "torch_eager": "pt2"}
    quantized = dict.fromkeys(("int8_dynamic", "int8_ptq", "qat"), "onnx")
    assert done.formats("yolov9c") == kinds | quantized | {"pruned20_eager": "pt2"}
    assert done.formats("yolov9c-redesigned") == kinds
    whole = done.manifest("yolov9c", "torch_eager")
    assert whole.inputs["images"].shape == (1, 3, 640, 640)
    assert whole.parameters == 25_590_912
    for recipe in quantized:
        assert done.fused("yolov9c", recipe) == 144, recipe
        assert done.share("yolov9c", recipe) < 0.27, recipe
    pruned = done.manifest("yolov9c", "pruned20_eager")
    assert steps(pruned) == ["take_ultralytics", "prune", "finetune", "export_pt2"]
    assert pruned.parameters / whole.parameters == pytest.approx(0.8**2, rel=0.02)
    redesigned = done.manifest("yolov9c-redesigned", "fp32")
    assert steps(redesigned) == ["take_ultralytics", "swap_activation", "train", "export_net"]
    assert done.manifest("yolov9c-redesigned", "torch_eager").parameters == 5_905_792
    assert redesigned.node_counts["LeakyRelu"] > 100
    again = run_study(place, "yolov9-sustained", "coco")
    assert again.artifacts == {
        key: artifact for key, artifact in done.artifacts.items() if key in again.artifacts
    }


def test_yolov8n_on_coco(place: Desk) -> None:
    """YOLOv8n at 640 px is made in every form and becomes INT8 after and during training."""
    done = run_study(place, "yolov8n-int8", "coco")
    whole = done.manifest("yolov8n.pt", "torch_eager")
    assert whole.inputs["images"].shape == (1, 3, 640, 640)
    assert whole.parameters == 3_157_200
    for recipe in ("int8_ptq", "qat"):
        assert done.fused("yolov8n.pt", recipe) == 63, recipe
        assert done.share("yolov8n.pt", recipe) < 0.3, recipe
    assert steps(done.manifest("yolov8n.pt", "qat")) == ["take_ultralytics", "qat", "export_int8"]


def test_unets(place: Desk) -> None:
    """Seven networks at 256 px, one of them taught by another, have the published sizes."""
    recipes = None if LITERT else ("fp32", "int8_ptq", "qat")
    done = run_study(place, "unet-lightweight", "cells", recipes)
    for model, parameters in UNETS.items():
        plain = done.manifest(model, "fp32")
        assert plain.inputs["images"].shape == (1, 3, 256, 256)
        assert plain.parameters == parameters
    taught = done.manifest("unet-lite-distilled", "fp32")
    assert steps(taught) == ["create", "distill", "export_net"]
    assert taught.steps[1].params["teacher"] == "unet"
    assert done.fused("unet", "int8_ptq") == done.fused("unet", "qat") == 15
    assert done.share("unet", "int8_ptq") < 0.27
    if LITERT:
        assert done.share("unet", "litert_int8", "litert") < 0.27
        assert set(done.formats("unet-fire").values()) == {"tflite", "onnx"}
