"""The model folder in other programs' hands: each reader gives the same labels and probabilities."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import signsclf
from signsclf.recipe import Recipe
from signsclf.runs.train import train

BLOCKER = """
import sys

class Absent:
    names = {names!r}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained model of an architecture that timm knows too, on a path with spaces and umlauts."""
    root = tmp_path_factory.mktemp("readers")
    rng = np.random.default_rng(0)
    for label, colour in (("rot", (200, 40, 40)), ("grün", (40, 180, 40)), ("blau", (40, 60, 200))):
        (root / "bilder" / label).mkdir(parents=True)
        for i in range(24):
            pixels = np.clip(np.array(colour) + rng.integers(-60, 60, (40, 36, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "bilder" / label / f"{i}.png")
    recipe = Recipe(arch="resnet10t", weights="none", size=32, epochs=2, batch_size=16)
    return train(root / "bilder", root / "das Modell über allem", recipe, learner=True).folder


@pytest.fixture(scope="module")
def image(folder):
    return next((folder.parent / "bilder" / "rot").iterdir())


def ours(folder: Path, image: Path) -> dict[str, float]:
    return dict(signsclf.load(folder).predict(image, top_k=3).top_k)


def agree(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    assert max(abs(found[label] - expected[label]) for label in expected) < 1e-4


def test_config_names_timm_and_transformers_only_where_they_can_read_it(folder):
    assert signsclf.load(folder).config.readers == ("onnxruntime", "signsclf", "fastai", "timm", "transformers")


def test_timm_reads_it(folder, image):
    import timm
    import torch

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        probabilities = model(transform(Image.open(image))[None]).softmax(1)[0].tolist()
    agree(dict(zip(model.pretrained_cfg["label_names"], probabilities, strict=True)), ours(folder, image))


def test_transformers_pipeline_reads_it(folder, image):
    transformers = pytest.importorskip("transformers")
    pipe = transformers.pipeline("image-classification", str(folder), device="cpu")
    agree({row["label"]: row["score"] for row in pipe(str(image), top_k=3)}, ours(folder, image))


def test_plain_onnxruntime_reads_it(folder, image):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    height, width = session.get_inputs()[0].shape[1:3]
    pixels = np.asarray(Image.open(image).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    logits = session.run(["logits"], {"image": pixels[None]})[0][0].astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    agree(dict(zip(labels, exponentials / exponentials.sum(), strict=True)), ours(folder, image))


def test_fastai_reads_it_where_signsclf_is_not_installed(folder, image, tmp_path):
    code = BLOCKER.format(names={"signsclf"}) + textwrap.dedent(
        """
        import json
        from fastai.learner import load_learner

        learner = load_learner(sys.argv[1])
        with learner.no_bar():
            label, index, probabilities = learner.predict(sys.argv[2])
        print(json.dumps(dict(zip(learner.dls.vocab, probabilities.tolist()))))
        """
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder / "learner.pkl"), str(image)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    agree(json.loads(done.stdout.splitlines()[-1]), ours(folder, image))


def test_the_wheel_predicts_beside_numpy_pillow_onnxruntime_and_typer_alone(folder, image, tmp_path):
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[2]
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    # A wheel of pure Python is installed by unpacking it; the rest of this environment is made absent.
    site = tmp_path / "site"
    zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))).extractall(site)
    absent = {
        "torch", "torchvision", "fastai", "fastcore", "timm", "pandas", "matplotlib", "safetensors", "onnx",
        "onnxscript", "platformdirs", "scipy", "sklearn", "pyarrow", "transformers", "huggingface_hub",
    }  # fmt: skip
    code = BLOCKER.format(names=absent) + textwrap.dedent(
        """
        sys.argv[0] = "signsclf"
        import signsclf
        assert signsclf.__file__.startswith(sys.argv.pop(1)), signsclf.__file__
        from signsclf.cli.app import main
        main()
        """
    )
    command = [sys.executable, "-c", code, str(site), "predict", str(image), "--model", str(folder), "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    agree({row["label"]: row["probability"] for row in json.loads(done.stdout)[0]["top_k"]}, ours(folder, image))
    command = [sys.executable, "-c", code, str(site), "predict", str(image)]
    environment = {"PYTHONPATH": str(site), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"model: {site / 'signsclf' / 'models' / 'gtsrb-signnet'} (ready-made")
