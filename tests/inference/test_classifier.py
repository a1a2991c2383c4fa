from __future__ import annotations

import copy
import gc
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from typing import BinaryIO
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from PIL import Image, ImageOps
from tinymodel import CLASSES, WEIGHT, config, network, write_folder

import signsclf
from signsclf import images
from signsclf.data import synthetic
from signsclf.data.synthetic.frame import render_frame
from signsclf.errors import BadImageError, ModelError, SignsclfError
from signsclf.export.verify import verify
from signsclf.inference import classifier as predict
from signsclf.inference.classifier import Classifier, Prediction, find_model, ready_made, stream
from signsclf.model.config import FORMAT_VERSION
from signsclf.model.folder import write_config, write_sums


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "mit Leerzeichen und Ümläuten")


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return signsclf.load(folder, threads=2)


def fails(pattern: str, error: type[SignsclfError] = ModelError):
    """An error of one line that matches."""
    return pytest.raises(error, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def plain(colour: str) -> Image.Image:
    return Image.new("RGB", (20, 10), colour)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


class TestClassifier:
    def test_tells_what_it_is(self, classifier: Classifier):
        assert classifier.labels == CLASSES
        assert classifier.size == (6, 8)
        assert classifier.card == "# A tiny model\n"
        assert classifier.config == config()
        assert classifier.threads == 2

    def test_predicts_with_the_probabilities_of_the_logits(self, classifier: Classifier):
        answer = classifier.predict(plain("red"), top_k=2)
        e = np.exp([9.0, -3.0, -3.0])
        assert (answer.label, answer.index, answer.path, answer.error) == ("red", 0, "", None)
        assert answer.probability == pytest.approx(e[0] / e.sum())
        assert [label for label, _ in answer.top_k] == ["red", "green"]
        assert answer.accepted is True
        assert classifier.predict(plain("grey")).accepted is False
        assert len(classifier.predict(plain("grey"), top_k=99).top_k) == 3

    def test_accepted_is_unknown_without_a_threshold(self, tmp_path: Path):
        assert Classifier(write_folder(tmp_path, reject_threshold=None)).predict(plain("red")).accepted is None

    def test_probabilities_sum_to_one_however_large_the_batch(self, classifier: Classifier):
        batch = noise(150, 6, 8, 3)
        probabilities = classifier.probabilities(batch)
        assert probabilities.shape == (150, 3)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        np.testing.assert_allclose(
            classifier.logits(batch), batch.mean(axis=(1, 2)) / 255 @ WEIGHT.T, rtol=1e-4, atol=1e-4
        )
        assert classifier.features(batch[:2]).shape == (2, 3, 6, 8)
        assert classifier.probabilities(batch[:0]).shape == (0, 3)

    @pytest.mark.parametrize("batch", [noise(1, 8, 6, 3), noise(6, 8, 3), noise(1, 6, 8, 3) / 255, "x"])
    def test_a_batch_of_another_kind_is_refused(self, classifier: Classifier, batch: object):
        with fails(r"uint8 \(N, 6, 8, 3\)"):
            classifier.probabilities(batch)

    def test_a_network_that_fails_or_gives_no_numbers_is_named(self, tmp_path: Path):
        model = network()
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.float32(0), "scale"))
        folder = write_folder(tmp_path / "zero")
        onnx.save(model, folder / "model.onnx")
        write_sums(folder)
        with fails("model.onnx: gives NaN or infinite logits"):
            Classifier(folder).predict(plain("black"))
        model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "weight"))
        folder = write_folder(tmp_path / "shape")
        onnx.save(model, folder / "model.onnx")
        write_sums(folder)
        with fails("model.onnx: (cannot be opened|fails on a batch of 1)"):
            Classifier(folder).predict(plain("red"))

    def test_works_from_many_threads_at_once(self, classifier: Classifier):
        pictures = [noise(12, 9, 3, seed=seed) for seed in range(40)]
        expected = [classifier.predict(picture) for picture in pictures]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(classifier.predict, pictures * 5)) == expected * 5
            assert list(pool.map(classifier.predict_batch, [pictures] * 8)) == [expected] * 8

    @pytest.mark.parametrize("threads", [0, -1])
    def test_threads_have_to_be_some(self, folder: Path, threads: int):
        with fails("threads", SignsclfError):
            signsclf.load(folder, threads=threads)

    def test_threads_bound_those_that_are_started(self, folder: Path):
        if not Path("/proc/self/task").is_dir():
            pytest.skip("threads are counted in /proc")
        code = (
            "import os, sys, numpy, signsclf\n"
            "from signsclf.inference.classifier import stream\n"
            "before = len(os.listdir('/proc/self/task'))\n"
            "c = signsclf.load(sys.argv[1], threads=1)\n"
            "rows = stream(c, [numpy.zeros((5, 5, 3), 'uint8')] * 200)\n"
            "next(rows)\n"
            "print(len(os.listdir('/proc/self/task')) - before)"
        )
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, "-c", code, str(folder)], env=environ, capture_output=True, text=True, check=True
        )
        assert int(result.stdout) <= 1  # the one that decodes

    def test_a_device_that_is_not_there_is_named(self, folder: Path):
        with fails("cpu or cuda", SignsclfError):
            Classifier(folder, device="tpu")


class TestSameAnswer:
    """Whatever an image is given as, the answer is that for the same file on disk."""

    def ways(self, path: Path) -> Iterator[object]:
        data = path.read_bytes()
        yield from (
            str(path),
            path,
            data,
            bytearray(data),
            memoryview(data),
            io.BytesIO(data),
            Image.open(path),
        )

    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_arrays_too(self, classifier: Classifier, tmp_path: Path, mode: str):
        array = noise(13, 17, *{"L": (), "RGB": (3,), "RGBA": (4,)}[mode])
        path = saved(Image.fromarray(array), tmp_path / "a.png")
        answers = {classifier.predict(way).top_k for way in (*self.ways(path), array, array[::1])}
        flipped = np.ascontiguousarray(array[:, ::-1])[:, ::-1]  # a view that is not contiguous
        assert answers == {classifier.predict(flipped).top_k}

    @pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "I;16"])
    def test_of_every_mode(self, classifier: Classifier, tmp_path: Path, mode: str):
        array = noise(13, 17, 4)
        image = Image.fromarray(array[..., 0]) if mode == "I;16" else Image.fromarray(array)
        if mode == "I;16":
            image = Image.fromarray(array[..., 0].astype(np.uint16) * 257)
        elif mode != "RGBA":
            image = image.convert("RGB" if mode in ("P", "1", "CMYK") else mode).convert(mode)
        path = saved(image, tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
        assert len({classifier.predict(way).top_k for way in self.ways(path)}) == 1

    def test_alpha_is_laid_on_white(self, classifier: Classifier):
        clear = np.zeros((5, 5, 4), dtype=np.uint8)
        assert classifier.predict(clear).top_k == classifier.predict(plain("white")).top_k

    def test_turned_as_exif_says(self, folder: Path, classifier: Classifier, tmp_path: Path):
        image = Image.fromarray(noise(30, 20, 3))
        exif = Image.Exif()
        exif[0x0112] = 6
        path = saved(image, tmp_path / "turned.png", exif=exif)
        seen = [images.resize(signsclf.inference.classifier.open_image(way), (6, 8)) for way in self.ways(path)]
        upright = images.resize(ImageOps.exif_transpose(Image.open(path)), (6, 8))
        assert all(np.array_equal(pixels, upright) for pixels in seen)
        answer = classifier.predict(path).top_k
        assert {row.top_k for row in classifier.predict_batch(self.ways(path))} == {answer}
        assert {row.top_k for row in classifier.predict_batch(list(self.ways(path)))} == {answer}
        assert not np.array_equal(upright, images.resize(image, (6, 8)))

    def test_in_a_batch_as_alone_and_from_an_archive(self, classifier: Classifier, tmp_path: Path):
        import zipfile

        path = saved(Image.fromarray(noise(9, 9, 3)), tmp_path / "a.png")
        with zipfile.ZipFile(tmp_path / "A.zip", "w") as archive:
            archive.write(path, "in/a.png")
        ways = [*self.ways(path), f"{tmp_path}/A.zip/in/a.png", noise(9, 9, 3)]
        answers = classifier.predict_batch(ways)
        assert {answer.top_k for answer in answers} == {classifier.predict(path).top_k}
        assert [answer.path for answer in answers[:3]] == [str(path), str(path), ""]


class TestBadImages:
    BAD = (
        (b"", "empty"),
        (b"no image", "not an image"),
        (noise(5, 5).astype(np.float32), "uint8.*is float32 of 5×5"),
        (noise(5, 5, 2), "uint8 of H×W"),
        (noise(1, 5, 5, 3), "uint8 of H×W"),
        (noise(0, 5, 3), "uint8 of H×W"),
        ("/does/not/exist.png", "exist.png: cannot be read"),
        ("nu\0ll.png", "cannot be read"),
        (3, "int is not a path"),
        (None, "NoneType is not a path"),
        (io.StringIO("text"), "binary mode"),
    )

    def test_many_images_for_one_are_told_where_they_go(self, classifier):
        with pytest.raises(BadImageError, match=r"list is not a path.*for many images use predict_batch"):
            classifier.predict([plain("red"), plain("blue")])

    @pytest.mark.parametrize(("image", "why"), BAD)
    def test_predict_raises_and_a_batch_holds_the_error(self, classifier: Classifier, image: object, why: str):
        with fails(why, BadImageError):
            classifier.predict(image)
        if isinstance(image, io.StringIO):
            image.seek(0)
        good, bad, also_good = classifier.predict_batch([plain("red"), image, plain("blue")])
        assert (good.label, also_good.label) == ("red", "blue")
        assert bad.label is bad.probability is bad.accepted is None
        assert "\n" not in bad.error

    def test_damaged_ones_given_in_other_ways(self, classifier: Classifier, tmp_path: Path):
        whole = saved(Image.fromarray(noise(99, 99, 3)), tmp_path / "a.png").read_bytes()
        cut = tmp_path / "cut.png"
        cut.write_bytes(whole[:5000])
        closed = io.BytesIO(whole)
        closed.close()
        for way in (cut, whole[:5000], Image.open(cut), closed):
            with pytest.raises(BadImageError):
                classifier.predict(way)
        with fails("folder", BadImageError):
            classifier.predict(tmp_path)

    def test_a_single_image_is_no_batch(self, classifier: Classifier):
        one = noise(5, 6, 3)
        others = (b"", bytearray(b"a"), memoryview(b"a"), io.BytesIO(b"a"), {"a": one}, None, 3)
        arrays = (one, one[..., 0], one[None].astype(np.float32), noise(2, 3, 5, 5), noise(1, 2, 5, 5, 3), np.uint8(3))
        for image in ("a.png", plain("red"), Path("a.png"), *others, *arrays):
            for call in (classifier.predict_batch, lambda images: stream(classifier, images)):
                with fails("list of images.*N×H×W×3.*predict", SignsclfError):
                    call(image)

    def test_a_path_that_cannot_be_looked_at_is_a_row_among_the_others(
        self, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        good = str(saved(plain("red"), tmp_path / "a.png"))
        closed = str(tmp_path / "closed" / "b.png")
        stat = os.stat

        def refusing(path: object, *arguments: object, **options: object) -> os.stat_result:
            if os.fspath(path) == closed:
                raise PermissionError(13, "Permission denied", closed)
            return stat(path, *arguments, **options)

        monkeypatch.setattr(os, "stat", refusing)
        for path in ("x" * 300 + ".png", closed, "a\0b.png", "\udcff.png", "x" * 300 + ".zip/" + "y" * 300):
            first, bad, last = classifier.predict_batch([good, path, good])
            assert (first.label, last.label) == ("red", "red")
            assert "cannot be read" in bad.error
            with fails("cannot be read", BadImageError):
                classifier.predict(path)

    def test_top_k_has_to_be_some(self, classifier: Classifier):
        for call in (classifier.predict, lambda image, top_k: stream(classifier, [image], top_k=top_k)):
            with fails("top_k is 0", SignsclfError):
                call(plain("red"), top_k=0)


class Parts:
    """A file that gives as little at a time as a pipe or a socket."""

    def __init__(self, data: bytes, kind: type = bytes) -> None:
        self.data, self.kind = data, kind

    def read(self, n: int = -1) -> bytes:
        part, self.data = self.data[: min(n, 100)], self.data[min(n, 100) :]
        return self.kind(part)


class Upload:
    """As web frameworks give it."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    async def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class TestFileObjects:
    @pytest.fixture
    def data(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(noise(30, 30, 3)).save(file, "PNG")
        return file.getvalue()

    def test_are_read_to_their_end(self, classifier: Classifier, data: bytes):
        right = classifier.predict(data)
        inside, outside = os.pipe()
        with os.fdopen(inside, "rb", buffering=0) as pipe, ThreadPoolExecutor(1) as pool:
            with os.fdopen(outside, "wb", buffering=0) as sink:
                written = [pool.submit(sink.write, data[:500]), pool.submit(sink.write, data[500:])]
                [part.result() for part in written]
            assert classifier.predict(pipe) == right
        for kind in (bytes, bytearray, memoryview):
            assert classifier.predict(Parts(data, kind)) == right
        assert classifier.predict_batch([Parts(data), Parts(data)]) == [right, right]

    def test_an_asynchronous_one_says_what_helps_and_nothing_else(self, classifier: Classifier, data: bytes):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for image in (Upload(data), Upload(data).read()):
                with fails("await it", BadImageError):
                    classifier.predict(image)
            assert "give its .file" in classifier.predict_batch([Upload(data)])[0].error
            with fails("a single coroutine", SignsclfError):
                classifier.predict_batch(Upload(data).read())
            gc.collect()
        assert classifier.predict(Upload(data).file) == classifier.predict(data)

    def test_of_another_kind_are_named(
        self, classifier: Classifier, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "a.png").write_bytes(data)
        for file, why in (
            ((tmp_path / "a.png").open(encoding="latin-1"), "binary mode"),
            (Mock(read=Mock(return_value=None)), "nothing to read yet"),
            (Mock(read=Mock(return_value=3)), "binary mode"),
            (Mock(read=Mock(side_effect=RuntimeError("gone\naway"))), r"cannot be read \(gone\)"),
        ):
            with fails(why, BadImageError):
                classifier.predict(file)
        monkeypatch.setattr(images, "MAX_BYTES", 1000)
        endless = Mock(read=lambda n: b"x" * min(n, 10))
        with fails("over 1,000 bytes", BadImageError):
            classifier.predict(endless)
        monkeypatch.setenv(images.PIXELS_VARIABLE, str(2 * images.MAX_PIXELS))
        with fails("over 2,000 bytes", BadImageError):
            classifier.predict(endless)


class TestCopies:
    def test_is_opened_anew_from_a_pickle_wherever_the_process_is(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(folder.parent)
        original = signsclf.load(folder.name, threads=1)
        answer = original.predict(plain("red"))
        monkeypatch.chdir(tmp_path)
        assert original.folder == folder
        assert original.card == "# A tiny model\n"
        for other in (pickle.loads(pickle.dumps(original)), copy.copy(original), copy.deepcopy(original)):
            assert other is not original
            assert (other.threads, other.config, other.folder) == (1, original.config, folder)
            assert other.predict(plain("red")) == answer

    def test_keeps_its_file_and_its_subclass(self, tmp_path: Path):
        folder = write_folder(tmp_path / "m")
        (folder / "other.onnx").write_bytes((folder / "model.onnx").read_bytes())
        write_sums(folder)
        other = pickle.loads(pickle.dumps(Special(folder, file="other.onnx")))
        assert type(other) is Special
        assert other._file.name == "other.onnx"

    def test_reaches_a_process_that_is_started_anew(self, classifier: Classifier):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(classifier.predict, (plain("red"),)) == classifier.predict(plain("red"))


class Special(Classifier):
    pass


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    below = tmp_path_factory.mktemp("images")
    colours = ["red", "lime", "blue"]
    for i in range(50):
        # Sizes that differ, so that decoding does not end in order by itself.
        Image.new("RGB", ((i * 37) % 400 + 1,) * 2, colours[i % 3]).save(below / f"{i}.png")
    (below / "7.png").write_text("text")
    (below / "20.png").unlink()
    return [str(below / f"{i}.png") for i in range(50)]


class TestStream:
    @pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 4), (64, 2), (None, None)])
    def test_keeps_the_order_and_goes_on_after_bad_ones(
        self, classifier: Classifier, paths: list[str], batch_size: int | None, workers: int | None
    ):
        rows = list(stream(classifier, iter(paths), batch_size=batch_size, workers=workers))
        assert [row.path for row in rows] == paths
        assert [i for i, row in enumerate(rows) if row.error] == [7, 20]
        assert all(row.index == i % 3 for i, row in enumerate(rows) if not row.error)

    def test_nothing_but_bad_ones_and_nothing_at_all(self, classifier: Classifier, paths: list[str]):
        assert [bool(row.error) for row in stream(classifier, [paths[7], paths[20]])] == [True, True]
        assert list(stream(classifier, [])) == []

    def test_reads_only_a_little_ahead(self, classifier: Classifier):
        taken = 0

        def endless() -> Iterator[np.ndarray]:
            nonlocal taken
            while True:
                taken += 1
                yield np.zeros((2, 2, 3), dtype=np.uint8)

        rows = stream(classifier, endless(), batch_size=10, workers=2)
        assert taken == 0
        for given in range(1, 500):
            next(rows)
            assert taken <= given + 40
        rows.close()

    def test_an_error_in_the_list_of_paths_reaches_the_caller(self, classifier: Classifier, paths: list[str]):
        def broken() -> Iterator[str]:
            yield paths[0]
            raise KeyError("broken")

        answers = stream(classifier, broken())
        assert next(answers).path == paths[0]
        with pytest.raises(KeyError, match="broken"):
            next(answers)

    def test_what_has_come_is_answered_while_the_next_is_awaited(self, classifier: Classifier, paths: list[str]):
        camera: Queue = Queue()
        answers = stream(classifier, iter(camera.get, None))
        for few in (paths[:1], paths[1:4]):
            for path in few:
                camera.put(path)
            began = time.monotonic()
            assert [next(answers).path for _ in few] == few
            assert time.monotonic() - began < 3
        camera.put(None)
        assert list(answers) == []

    def test_a_list_is_read_in_the_callers_thread(self, classifier: Classifier, paths: list[str]):
        before = set(threading.enumerate())
        answers = stream(classifier, paths[:3])
        next(answers)
        assert not any(thread.name == "signsclf-arrivals" for thread in set(threading.enumerate()) - before)
        answers.close()

    def test_images_before_the_error_are_answered_first(self, classifier: Classifier, paths: list[str]):
        def broken() -> Iterator[str]:
            yield from paths[:3]
            raise KeyError("broken")

        rows = []
        with pytest.raises(KeyError, match="broken"):
            rows.extend(stream(classifier, broken(), batch_size=2))
        assert [row.path for row in rows] == paths[:3]

    def test_what_an_iterator_gives_may_change_when_it_goes_on(self, classifier: Classifier, paths: list[str]):
        colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 9

        def frames() -> Iterator[np.ndarray]:
            buffer = np.empty((9, 9, 3), np.uint8)
            for colour in colours:
                buffer[:] = colour
                yield buffer

        def pictures() -> Iterator[Image.Image]:
            picture = Image.new("RGB", (9, 9))
            for colour in colours:
                picture.paste(colour, (0, 0, 9, 9))
                yield picture

        def encoded(kind: type) -> Iterator[object]:
            data = bytearray(200)
            for colour in colours:
                file = io.BytesIO()
                Image.new("RGB", (9, 9), colour).save(file, "BMP")
                data[: len(file.getvalue())] = file.getvalue()
                yield kind(data)

        def files(opened: Callable[[str], BinaryIO | Image.Image]) -> Iterator[object]:
            for path in paths[:6]:
                with opened(path) as file:
                    yield file

        for several in (frames(), pictures(), encoded(memoryview), encoded(lambda data: data)):
            assert [row.index for row in classifier.predict_batch(several)] == [0, 1, 2] * 9
        for several in (files(partial(open, mode="rb")), files(Image.open)):
            assert [row.index for row in classifier.predict_batch(several)] == [0, 1, 2] * 2

    def test_frames_wait_at_the_size_of_the_network(self, classifier: Classifier):
        frame = noise(1000, 2000, 3)
        rows = stream(classifier, (frame for _ in range(60)), batch_size=20)
        tracemalloc.start()
        try:
            assert len({row.top_k for row in rows}) == 1
            assert tracemalloc.get_traced_memory()[1] < 10 * frame.nbytes
        finally:
            tracemalloc.stop()

    def test_an_array_of_images_and_other_iterables_are_lists(self, classifier: Classifier, paths: list[str]):
        many = noise(5, 7, 9, 3)
        one_by_one = [classifier.predict(image) for image in many]
        for several in (many, list(many), tuple(many), iter(many), many[::1], dict(enumerate(many)).values()):
            assert classifier.predict_batch(several) == one_by_one
        assert classifier.predict_batch(many[:0]) == classifier.predict_batch([]) == []
        assert len(classifier.predict_batch(noise(2, 5, 5, 4))) == 2
        named = [row.path for row in classifier.predict_batch(np.array(paths[:3]))]
        assert named == paths[:3]

    @pytest.mark.parametrize("number", ["batch_size", "workers"])
    def test_numbers_have_to_be_some(self, classifier: Classifier, number: str):
        with fails(number, SignsclfError):
            stream(classifier, [], **{number: 0})


class TestLoading:
    """Damage to a model folder ends in one line that names the file."""

    def damaged(self, tmp_path: Path, sums: bool = True, **files: bytes | None) -> Path:
        folder = write_folder(tmp_path / "m")
        for name, data in files.items():
            path = folder / {"network": "model.onnx", "config": "config.json"}[name]
            path.write_bytes(data) if data is not None else path.unlink()
        if sums:
            write_sums(folder)
        return folder

    def test_networks(self, tmp_path: Path):
        whole = network().SerializeToString()
        for data in (None, b"", b"rubbish", whole[: len(whole) // 2]):
            with fails("model.onnx"):
                signsclf.load(self.damaged(tmp_path, network=data))

    def test_configs(self, tmp_path: Path):
        good = config().to_json()
        unknown = good.replace(f'"format_version": "{FORMAT_VERSION}"', '"format_version": "99.0"')
        for data, why in (
            (None, "config.json"),
            (b"\xff", "config.json"),
            (good[:100].encode(), "config.json"),
            (unknown.encode(), "format version 99"),
        ):
            with fails(why):
                signsclf.load(self.damaged(tmp_path, config=data))

    def test_a_config_that_was_edited_is_found_by_its_checksum(self, tmp_path: Path):
        edited = config(reject_threshold=0.0).to_json().encode()
        with fails("config.json: changed or truncated"):
            signsclf.load(self.damaged(tmp_path, sums=False, config=edited))

    def test_no_folder_at_all(self, tmp_path: Path):
        with fails("no such model folder"):
            signsclf.load(tmp_path / "none")

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"classes": ("red", "blue", "green")}, "labels differ from those"),
            ({"classes": ("red", "green")}, "not logits of 2 classes"),
            ({"input_size": (8, 6)}, r"uint8 images \(N, 8, 6, 3\)"),
        ],
    )
    def test_a_network_of_another_model(self, tmp_path: Path, changes: dict, why: str):
        folder = write_folder(tmp_path)
        write_config(folder, config(**changes))
        write_sums(folder)
        with fails(why):
            signsclf.load(folder)

    def test_a_network_whose_weights_lie_outside_is_refused(self, tmp_path: Path):
        folder = write_folder(tmp_path / "m")
        model = onnx.load(folder / "model.onnx")
        (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
        tensor = model.graph.initializer[2]
        onnx.external_data_helper.set_external_data(tensor, "../secret")
        tensor.ClearField("raw_data")
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        write_sums(folder)
        with fails("model.onnx: keeps weights in other files"):
            signsclf.load(folder)

    def test_a_network_that_was_changed_or_exchanged_is_found_by_its_checksum(self, tmp_path: Path):
        other = network()
        other.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(-WEIGHT, "weight"))
        with fails("model.onnx: changed or truncated"):
            signsclf.load(self.damaged(tmp_path, sums=False, network=other.SerializeToString()))

    @pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights on Windows")
    def test_a_folder_of_links_opens_as_the_files_themselves(self, folder: Path, tmp_path: Path):
        snapshot = tmp_path / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        for path in folder.iterdir():
            (snapshot / path.name).symlink_to(path)
        linked = signsclf.load(snapshot)
        assert linked.predict(plain("red")) == signsclf.load(folder).predict(plain("red"))
        assert linked.card == "# A tiny model\n"


class TestPrediction:
    def test_becomes_json(self, classifier: Classifier):
        answer = classifier.predict(plain("red"))
        back = json.loads(json.dumps(answer.to_dict()))
        assert back["label"] == "red"
        assert set(back) == {"path", "label", "index", "probability", "top_k", "accepted", "error"}
        assert signsclf.Prediction is Prediction

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"label": "a", "index": 0, "probability": 1.5, "top_k": (("a", 1.5),)},
            {"label": "a", "index": 0, "probability": float("nan"), "top_k": (("a", float("nan")),)},
            {"label": "a", "index": 0, "probability": 0.5},
            {"label": "a", "index": 0, "probability": 0.5, "top_k": (("b", 0.5),)},
            {"label": "a", "index": 0, "probability": 0.4, "top_k": (("a", 0.4), ("b", 0.6))},
            {"label": "a", "error": "bad"},
            {"accepted": False, "error": "bad"},
        ],
    )
    def test_contradictions_are_refused(self, fields: dict):
        with pytest.raises(ValueError, match=r"Prediction|label|top_k"):
            Prediction(path="x", **fields)


class TestFindModel:
    def test_the_nearest_named_one_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        ready, why = find_model(None, {"SIGNSCLF_MODEL": ""}, tmp_path)
        assert ready == ready_made()
        assert "ready-made" in why
        monkeypatch.setattr(predict, "ready_made", lambda: None)
        with fails("--model.*SIGNSCLF_MODEL.*signsclf train"):
            find_model(None, {"SIGNSCLF_MODEL": ""}, tmp_path)
        default = tmp_path / "models" / "default"
        default.mkdir(parents=True)
        assert find_model(None, {}, tmp_path) == (default, "models/default here")
        assert find_model(None, {"SIGNSCLF_MODEL": "m"}, tmp_path) == (Path("m"), "$SIGNSCLF_MODEL")
        assert find_model("x", {"SIGNSCLF_MODEL": "m"}, tmp_path)[0] == Path("x")


class TestReadyMade:
    def test_it_is_small_whole_and_without_a_pickle(self):
        files = [path for path in ready_made().rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 20e6
        assert not [path.name for path in files if path.suffix in (".pkl", ".pt", ".ppm")]
        assert verify(ready_made()).difference < 1e-3

    def test_its_figures_are_those_of_hold_outs_and_state_distinct_images(self):
        config = signsclf.load(ready_made()).config
        assert config.figures["training"]["n"] == 39_209
        found = config.figures["holdouts"]
        assert (found["n"], found["n_repeated"], found["models"]) == (39_209, 0, 3)
        assert config.figures["valid"] is None
        assert config.figures["calibration"]["n"] == found["n"]
        card = signsclf.load(ready_made()).card
        assert "of 3 models made in the same way" in card
        assert "n = 39,209 distinct images" in card
        assert "over 1,307 groups of images" in card
        assert 0 < config.reject_threshold < 1

    def test_it_recognises_synthetic_signs_of_any_size(self):
        classifier = signsclf.load(ready_made())
        signs = synthetic.table(per_class=6)
        found = classifier.predict_batch(synthetic.read(path) for path in signs["path"])
        right = [one.label == label for one, label in zip(found, signs["label"], strict=True)]
        # They were rendered to be hard to see, and none of them was trained on.
        assert np.mean(right) > 0.85
        for side in (20, 77, 500):
            frames = [render_frame(14, track, 5, 0, (side, side)) for track in range(5)]
            assert [found.label for found in classifier.predict_batch(frames)].count("Stop") >= 4


def test_predicting_imports_neither_torch_nor_pandas(folder: Path, tmp_path: Path):
    code = (
        "import sys, signsclf\n"
        "assert 'numpy' not in sys.modules\n"
        "print(signsclf.load(sys.argv[1]).predict_batch(sys.argv[2:])[0].label)\n"
        "heavy = {'torch', 'fastai', 'pandas', 'matplotlib', 'timm', 'torchvision', 'onnx', 'safetensors'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    image = saved(plain("blue"), tmp_path / "Ä b.png")
    environ = {
        **os.environ,
        "PYTHONPATH": str(Path(signsclf.__file__).parents[1]),
        "PYTHONIOENCODING": "utf-8",
    }
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(image)],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split("\n")[:2] == ["blue", "[]"]
    assert result.stderr == ""


@pytest.mark.parametrize("path", ["x" * 300 + ".png", "nul\0byte.png", "loop.png", "loop/a.png", "a.png/b.png"])
def test_a_path_that_cannot_be_looked_at_costs_no_other_image(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
):
    monkeypatch.chdir(tmp_path)
    plain("red").save("a.png")
    if path.startswith("loop"):
        if os.name == "nt":
            pytest.skip("links need rights there")
        Path(path.partition("/")[0]).symlink_to(path.partition("/")[0])
    with pytest.raises(BadImageError):
        classifier.predict(path)
    for found in (
        classifier.predict_batch(["a.png", path, "a.png"]),
        list(stream(classifier, ["a.png", path, "a.png"])),
    ):
        assert [bool(one.error) for one in found] == [False, True, False]


def test_a_pillow_image_whose_values_fit_no_scale_is_refused_by_name(classifier: Classifier):
    with fails("image: floats up to 1.5, which fit no usual scale", BadImageError):
        classifier.predict(Image.fromarray(np.array([[0, 1.5]], np.float32)))
    with fails("image: no pixels", BadImageError):
        classifier.predict(Image.new("RGB", (0, 5)))
