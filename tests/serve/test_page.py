"""The page at /: what is sent, and the images to try it with. What it does in a browser: test_page_in_browser."""

from __future__ import annotations

import gzip
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from serving import png, write_model

from signsclf.export.golden import store_golden
from signsclf.inference.classifier import Classifier
from signsclf.model.folder import write_sums
from signsclf.serve.page import PAGE

pytestmark = pytest.mark.serve

HTML = PAGE.read_bytes()


def raw(server, path="/", **headers):
    """An answer as it was sent: its status, headers, and bytes that nothing has unpacked."""
    answer = server.get(path, headers={"Accept-Encoding": "identity", **headers}, stream=True)
    return answer.status_code, answer.headers, answer.raw.read(decode_content=False)


def test_the_page_is_one_small_file_that_asks_no_other_place_for_anything():
    assert len(HTML) < 60_000
    addresses = re.findall(rb"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"'`]*", HTML)
    assert set(addresses) == {b"http://www.w3.org/2000/svg"}  # the name of a vocabulary
    # The policy allows neither.
    assert not re.search(rb"<[^>]+\s(style|on[a-z]+)=", HTML)
    assert b"innerHTML" not in HTML and b"eval(" not in HTML


def test_it_is_sent_whole_or_packed_and_not_again(server):
    status, headers, body = raw(server)
    assert (status, body, headers["Content-Type"]) == (200, HTML, "text/html; charset=utf-8")
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    status, packed, body = raw(server, **{"Accept-Encoding": "br, gzip"})
    assert gzip.decompress(body) == HTML and len(body) < 25_000
    assert packed["Content-Encoding"] == "gzip" and packed["Vary"] == "Accept-Encoding"
    assert packed["ETag"] != headers["ETag"]
    status, again, body = raw(server, **{"If-None-Match": f'"old", W/{headers["ETag"]}'})
    assert (status, body, again["ETag"]) == (304, b"", headers["ETag"])
    assert raw(server, **{"If-None-Match": '"old"'})[0] == 200


@pytest.mark.parametrize("accepted", ["", "gzip;q=0", "gzip; q=0.0, br", "identity"])
def test_it_is_not_packed_for_whom_that_is_nothing(server, accepted):
    assert raw(server, **{"Accept-Encoding": accepted})[2] == HTML


def test_a_server_without_the_page_has_none_of_it(serve):
    running = serve(page=False)
    for path in ("/page.json", "/samples/0", "/icon.svg"):
        assert running.get(path).status_code == 404
    # There is a POST for it, which Hugging Face's clients send.
    assert running.get("/").status_code == 405
    assert running.post("/predict", png()).status_code == 200


def test_the_page_is_public_and_what_it_asks_for_is_not(serve):
    running = serve(token="a-token-of-sixteen")
    paths = {"/": 200, "/icon.svg": 200, "/page.json": 401, "/samples/0": 401}
    assert {path: running.get(path).status_code for path in paths} == paths
    allowed = {"Authorization": "Bearer a-token-of-sixteen"}
    assert running.get("/page.json", headers=allowed).json() == {"max_bytes": 20_000_000, "samples": []}


@pytest.fixture
def with_samples(tmp_path):
    """A model folder with one sample and a text beside it."""
    folder = write_model(tmp_path / "colours")
    samples = folder / "run" / "samples"
    samples.mkdir()
    (samples / "a red one.png").write_bytes(png("red"))
    (samples / "notes.txt").write_text("no image")
    return folder


def test_samples_are_the_images_of_the_models_folder(serve, with_samples):
    running = serve(with_samples)
    assert running.get("/page.json").json()["samples"] == [{"name": "a red one", "path": "samples/0"}]
    answer = running.get("/samples/0")
    assert (answer.content, answer.headers["Content-Type"]) == (png("red"), "image/png")
    assert running.get("/samples/1").status_code == 404
    (with_samples / "run" / "samples" / "a red one.png").unlink()
    assert running.get("/samples/0").status_code == 404


def test_a_link_out_of_the_models_folder_is_no_sample(serve, with_samples, tmp_path):
    (tmp_path / "secret.png").write_bytes(png("blue"))
    try:
        (with_samples / "run" / "samples" / "b.png").symlink_to(tmp_path / "secret.png")
    except OSError:
        pytest.skip("this system makes no links")
    assert len(serve(with_samples).get("/page.json").json()["samples"]) == 1


def test_golden_images_are_samples_unless_they_are_noise(serve, tmp_path):
    folder = write_model(tmp_path / "colours")
    assert serve(folder).get("/page.json").json()["samples"] == []
    classifier = Classifier(folder)
    pixels = np.zeros((2, *classifier.size, 3), np.uint8)
    store_golden(folder, pixels, classifier.probabilities(pixels))
    write_sums(folder)
    listed = serve(folder).get("/page.json").json()["samples"]
    assert [sample["name"] for sample in listed] == ["000", "001"]


def test_a_model_of_signs_has_rendered_ones(serve, tmp_path):
    running = serve(write_model(tmp_path / "signs", classes=("Stop", "Yield", "other")))
    listed = running.get("/page.json").json()["samples"]
    assert [sample["name"] for sample in listed] == ["Stop", "Yield"]
    answer = running.get("/samples/0")
    with Image.open(BytesIO(answer.content)) as image:
        red, green, blue = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert red > 1.5 * max(green, blue)
