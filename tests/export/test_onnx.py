from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from signsclf.errors import ModelError, ParityError
from signsclf.export import graphs
from signsclf.export import onnx as export
from signsclf.export.onnx import ExportedNetwork, compare, fold_temperature, readers, torch_logits, write_network
from signsclf.metrics.calibrate import softmax
from signsclf.model.folder import LEARNER, ONNX, WEIGHTS
from signsclf.training.architectures import Architecture, classifier_name, create, find_architecture

CLASSES = ("Stop", "Vorfahrt gewähren", "Kinder")
SIZE = 32
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def pictures(n: int = 20, size: int = SIZE) -> np.ndarray:
    """Noise about a colour of each image's own, so that they are told apart."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (n, 1, 1, 3))
    return (colours + rng.integers(-60, 60, (n, size, size, 3))).clip(0, 255).astype(np.uint8)


def network(name: str, seed: int = 0) -> tuple[nn.Module, Architecture]:
    """As training would leave it: batch norms that have seen images, channels last, weights that tell images apart."""
    arch = find_architecture(name)
    torch.manual_seed(seed)
    model = create(arch, len(CLASSES)).train().to(memory_format=torch.channels_last)
    pixels = torch.from_numpy(pictures(16)).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(arch.mean).view(3, 1, 1)) / torch.tensor(arch.std).view(3, 1, 1)
    head = model.get_submodule(classifier_name(model, len(CLASSES)))
    with torch.no_grad():
        model(pixels)
        head.weight.mul_(4)
        head.bias.sub_(model.eval()(pixels).mean(0))
    model.train()
    return model, arch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write(name: str, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "geheimer ordner"
    folder.mkdir()
    model, arch = network(name)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parity, classifier = write_network(folder, model, arch, CLASSES, SIZE, pictures(), learner=True)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return folder, model, arch, parity, classifier


@pytest.fixture(scope="module")
def signnet(tmp_path_factory):
    return write("signnet", tmp_path_factory)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    return write("resnet18", tmp_path_factory)


@pytest.fixture(params=["signnet", "resnet18"])
def exported(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def no_export(signnet, monkeypatch) -> None:
    """Takes the graph of signnet for that of any network."""
    graph = signnet[0] / ONNX
    monkeypatch.setattr(export, "_write_onnx", lambda path, *_: shutil.copy(graph, path))


def run_onnx(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(str(path)).run(None, {"image": pixels})


def test_the_files_are_there_and_nothing_else(exported):
    folder, *_ = exported
    assert sorted(p.name for p in folder.iterdir()) == sorted([ONNX, WEIGHTS, LEARNER])


def test_the_graph_is_read_by_runtimes_of_years_ago(exported):
    model = onnx.load(exported[0] / ONNX)
    assert model.ir_version == 8
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    onnx.checker.check_model(model)


def test_nothing_is_printed_and_standard_output_stays_whose_it_is(tmp_path, capfd, monkeypatch):
    model, arch = network("signnet")
    stdout, seen = sys.stdout, []
    real = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: (seen.append(sys.stdout), real(*a, **k))[1])
    monkeypatch.setattr(graphs, "_captured", {})
    write_network(tmp_path, model, arch, CLASSES, SIZE, pictures(2))
    assert seen == [stdout]
    assert capfd.readouterr() == ("", "")


def test_the_proof_says_how_near(exported):
    *_, parity, _ = exported
    assert parity.n == 20
    assert 0 <= parity.max_difference <= 1e-3
    assert parity.top1_differs == 0
    assert json.loads(json.dumps(parity.to_dict()))["tolerance"] == 1e-3


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_graph_takes_bytes_in_any_number_and_answers_as_the_network(exported, n):
    folder, model, arch, _, _ = exported
    pixels = pictures(n)
    expected = torch_logits(model, arch, pixels)
    x = (torch.from_numpy(pixels) / 255 - torch.tensor(arch.mean)) / torch.tensor(arch.std)
    with torch.inference_mode():
        plain = model.eval()(x.permute(0, 3, 1, 2)).numpy()
    model.train()
    assert np.allclose(expected, plain, atol=1e-4)
    assert np.allclose(run_onnx(folder / ONNX, pixels)[0], plain, atol=1e-3)


def test_the_feature_map_with_the_classifier_gives_the_logits(exported):
    folder, _, _, _, classifier = exported
    logits, features = run_onnx(folder / ONNX, pictures(4))
    assert features.ndim == 4
    weights = load_file(folder / WEIGHTS)
    bias = weights[classifier.replace("weight", "bias")].numpy()
    assert np.allclose(features.mean((2, 3)) @ weights[classifier].numpy().T + bias, logits, atol=1e-3)


def test_labels_are_in_the_graph_and_one_file_holds_all(exported):
    folder, *_ = exported
    graph = onnx.load(folder / ONNX, load_external_data=False)
    assert json.loads({p.key: p.value for p in graph.metadata_props}["labels"]) == list(CLASSES)
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.graph.initializer)


def test_weights_lie_under_the_architectures_own_names(exported):
    folder, model, arch, _, _ = exported
    state = load_file(folder / WEIGHTS)
    twin = create(arch, len(CLASSES))
    twin.load_state_dict(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_nothing_shipped_tells_where_it_was_made(exported):
    folder, *_ = exported
    for path in folder.iterdir():
        data = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data += b"".join(archive.read(name) for name in archive.namelist())
        for secret in ("geheimer ordner", str(folder.parent), str(Path(__file__).parent)):
            assert secret.encode() not in data, path.name


_ELSEWHERE = """
import sys, warnings, json

class NoSignsclf:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "signsclf":
            raise ModuleNotFoundError("signsclf is not installed here")

sys.meta_path.insert(0, NoSignsclf())
warnings.simplefilter("ignore")
import fastai.callback.progress
from fastai.learner import load_learner

learner = load_learner(sys.argv[1])
with learner.no_bar(), learner.no_logging():
    label, index, probabilities = learner.predict(sys.argv[2])
    rows = learner.get_preds(dl=learner.dls.test_dl(sys.argv[2:]))[0]
try:
    import signsclf
except ModuleNotFoundError:
    signsclf = None
print(json.dumps([label, probabilities.tolist(), rows.tolist(), signsclf is None]))
"""


def test_the_learner_loads_where_signsclf_is_not_and_agrees_with_the_graph(signnet, tmp_path):
    folder, *_ = signnet
    pixels = [pictures(1, 48)[0], pictures(1)[0]]
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    code = tmp_path / "elsewhere.py"
    code.write_text(textwrap.dedent(_ELSEWHERE))
    command = [sys.executable, "-I", str(code), str(folder / LEARNER), str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    label, probabilities, rows, blocked = json.loads(done.stdout.splitlines()[-1])
    assert blocked
    squashed = np.stack(
        [np.asarray(Image.fromarray(p).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for p in pixels]
    )
    expected = softmax(run_onnx(folder / ONNX, squashed)[0])
    assert np.allclose(rows, expected, atol=1e-4)
    assert np.allclose(probabilities, expected[0], atol=1e-4)
    assert label == CLASSES[int(expected[0].argmax())]


# -- the gate --------------------------------------------------------------------------------------------------------


def test_a_graph_that_answers_otherwise_is_refused_and_nothing_is_written(tmp_path, no_export):
    model, arch = network("signnet")
    with torch.no_grad():
        model.fc.bias[1] += 0.5
    with pytest.raises(
        ParityError, match=r"model\.onnx differs from the network by .* of 20 images.*nothing was written"
    ) as caught:
        write_network(tmp_path, model, arch, CLASSES, SIZE, pictures())
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_no_number_is_refused(tmp_path, monkeypatch, no_export):
    model, arch = network("signnet")
    real = export.torch_logits
    monkeypatch.setattr(export, "torch_logits", lambda *args: real(*args) * np.nan)
    with pytest.raises(ParityError):
        write_network(tmp_path, model, arch, CLASSES, SIZE, pictures(2))
    assert list(tmp_path.iterdir()) == []


def test_compare_counts_other_answers_but_not_ties(signnet):
    path = signnet[0] / ONNX
    pixels = pictures(6)
    logits = run_onnx(path, pixels)[0]
    same = compare(path, logits, pixels)
    assert (same.n, same.top1_differs) == (6, 0)
    assert same.max_difference < 1e-6
    other = logits.copy()
    other[:, 1] = logits.max(1) + 5
    parity = compare(path, other, pixels)
    assert parity.top1_differs == (logits.argmax(1) != 1).sum() > 0
    assert parity.max_difference > 0.1
    # The two best as good as equal: either may come first.
    tie = logits.copy()
    tie[:, 1] = tie[:, 0] = tie.max() + 3
    tie[:, 1] += 1e-4
    assert compare(path, tie, pixels).top1_differs == 0


@pytest.mark.parametrize(
    ("where", "trouble"),
    [
        ("save_file", OSError(errno.ENOSPC, "No space left on device")),
        ("save_file", SafetensorError("I/O error: No space left on device")),
        ("_write_learner", RuntimeError("PytorchStreamWriter failed writing file: No space left on device\nat x")),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_no_graph(tmp_path, monkeypatch, no_export, where, trouble):
    def full(*args, **kwargs):
        raise trouble

    monkeypatch.setattr(export, where, full)
    model, arch = network("signnet")
    with pytest.raises(ModelError, match=r"cannot be written \(.*No space left on device\); free some space") as caught:
        write_network(tmp_path, model, arch, CLASSES, SIZE, pictures(2), learner=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / ONNX).exists()
    assert not list(tmp_path.glob("*.new"))


def test_what_torch_cannot_export_is_one_line(tmp_path, capfd):
    model, arch = network("signnet")

    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (1.0 if x.detach().numpy().sum() > 0 else 2.0)

    odd = Odd(256, 3)
    odd.load_state_dict(model.fc.state_dict())
    model.fc = odd
    with pytest.raises(ModelError, match="cannot export this architecture to ONNX") as caught:
        write_network(tmp_path, model, arch, CLASSES, SIZE, pictures(2))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


# -- temperature and readers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["signnet", "linear-regression"])
def test_the_temperature_is_folded_into_graph_and_weights(tmp_path, name):
    model, arch = network(name)
    with ExportedNetwork(tmp_path, model, arch, CLASSES, SIZE, pictures()) as exported:
        logits = exported.logits(pictures())
        np.testing.assert_allclose(logits, torch_logits(model.eval(), arch, pictures()), atol=1e-3)
        exported.fold(2.5)
        parity = exported.write(learner=True)
    assert parity.max_difference < 1e-4
    np.testing.assert_allclose(run_onnx(tmp_path / ONNX, pictures())[0], logits / 2.5, atol=1e-3)
    head = classifier_name(model, len(CLASSES))
    folded = load_file(tmp_path / WEIGHTS)[f"{head}.weight"]
    torch.testing.assert_close(folded, model.get_submodule(head).weight.detach() / 2.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ONNX, WEIGHTS, LEARNER])


@pytest.mark.parametrize("name", ["signnet", "resnet18", "mobilenetv3_small_050"])
def test_folding_divides_the_logits_by_the_temperature(name):
    model, arch = network(name)
    pixels = pictures(3)
    before = torch_logits(model, arch, pixels)
    assert fold_temperature(model, len(CLASSES), 2.5) is model
    assert np.allclose(torch_logits(model, arch, pixels), before / 2.5, atol=1e-4)


def test_the_readers_are_those_that_agree():
    every = ("onnxruntime", "signsclf")
    pixels = pictures(2)
    assert readers(*network("signnet"), 3, pixels) == every
    assert readers(*network("resnet18"), 3, pixels) == (*every, "timm", "transformers")
