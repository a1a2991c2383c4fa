"""What goes wrong around a server: slow and rude clients, hostile images, signals, damaged models, full disks, clocks.

All of it on the loopback address, and bounded in number and time.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import io
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from serving import png, write_model
from wire import PATIENCE, answer, connect, drip, head, rest, status

import signsclf.serve
from signsclf.files import file_hash

pytestmark = pytest.mark.serve

IMAGE = png()
QUICK = {"header_seconds": 0.3, "body_seconds": 0.5, "idle_seconds": 0.5, "send_seconds": 0.3}
POST = head("POST", "/predict", f"Content-Length: {len(IMAGE)}") + IMAGE


def wait_for(condition, what):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def nothing_is_left(running):
    """No body, no pixel and no image is counted any more."""
    admission = running.service.admission
    wait_for(lambda: (admission.bytes, admission.pixels) == (0, 0), f"{admission.bytes} bytes, {admission.pixels} px")
    running.session.close()
    wait_for(lambda: "signsclf_images_in_work 0\n" in running.get("/metrics").text, "images in work")


def refused_in_one_line(found):
    """Tell the status of an answer that is an error, after a look at its sentence."""
    assert 400 <= found.status_code < 500, (found.status_code, found.text[:300])
    sentence = found.json()["error"]
    assert sentence and sentence.isprintable() and len(sentence) < 500, sentence
    assert "Traceback" not in sentence and "/" + "site-packages" not in sentence
    return found.status_code


# ---------------------------------------------------------------- clients that are slow, many, or gone


def is_answered(running):
    """Ask on a connection of its own: kept ones may just be closed as idle."""
    with connect(running.url) as client:
        client.sendall(POST)
        return answer(client)[0] == 200


def attack(url, count, begin, more):
    """So many connections that begin a request and then send a byte at a time; returns what each was told."""
    told = []

    def one():
        with connect(url) as client, contextlib.suppress(ConnectionError):
            client.sendall(begin)
            told.append(status(drip(client, more, 0.05)))

    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, told


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\n", b"X-A: b\r\n" * 1000),
        (head("POST", "/predict", "Content-Length: 1000000", "Content-Type: image/png"), IMAGE * 100),
        (head("POST", "/predict", "Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 1000),
    ],
    ids=["headers", "body", "chunks"],
)
def test_slow_requests_end_and_others_are_answered_meanwhile(serve, begin, more):
    running = serve(**QUICK)
    threads, told = attack(running.url, 30, begin, more)
    while any(thread.is_alive() for thread in threads):
        assert is_answered(running)
        time.sleep(0.02)
    assert told == [408] * 30
    nothing_is_left(running)


def test_slow_readers_end_and_others_are_answered_meanwhile(serve):
    running = serve(**QUICK)
    with contextlib.ExitStack() as opened:
        readers = [opened.enter_context(connect(running.url, receive_buffer=2048)) for _ in range(20)]
        for reader in readers:
            # Answers that nobody reads, one after another, until neither side takes more.
            reader.settimeout(0.02)
            with contextlib.suppress(TimeoutError, ConnectionError):
                for _ in range(2000):
                    reader.sendall(head("GET", "/models"))
            assert is_answered(running)
        connections = running.server._uvicorn.server_state.connections
        wait_for(lambda: len(connections) <= 1, "connections of clients that read nothing")
    nothing_is_left(running)


@pytest.mark.parametrize("count", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_idle_connections_keep_nobody_out(serve, count):
    running = serve(max_connections=min(100, count))
    crowd = []
    try:
        for _ in range(count):
            crowd.append(connect(running.url))
        for _ in range(5):
            assert is_answered(running)
    finally:
        for found in crowd:
            found.close()
    nothing_is_left(running)


def test_half_of_the_clients_hang_up_and_the_others_are_answered(serve):
    running = serve()
    chance = random.Random(0)
    answered = []

    def stay():
        with connect(running.url) as client:
            client.sendall(POST)
            answered.append(answer(client)[0])

    def leave(how):
        with connect(running.url) as client:
            client.sendall(POST[: chance.randrange(1, len(POST))] if how == "within" else POST)
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    for round_ in range(4):
        threads = [threading.Thread(target=stay) for _ in range(20)]
        threads += [threading.Thread(target=leave, args=(how,)) for how in ("within", "reset", "after") * 7]
        chance.shuffle(threads)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answered == [200] * (20 * (round_ + 1))
    nothing_is_left(running)
    assert running.get("/health/ready").status_code == 200


# ---------------------------------------------------------------- images that are hostile


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, data, *extra):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(kind, size=(24, 16), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    data = io.BytesIO()
    (image.quantize(16) if kind == "GIF" else image).save(data, kind, **options)
    return data.getvalue()


@functools.cache
def bombs():
    """Small files that would become large, and files that are two things at once."""
    zeros = zlib.compress(bytes(30_000 * 1000), 9)
    gif = encoded("GIF")
    tiff = bytearray(encoded("TIFF"))
    entries = struct.unpack_from("<I", tiff, 4)[0] + 2
    for at in range(entries, entries + 12 * struct.unpack_from("<H", tiff, entries - 2)[0], 12):
        if struct.unpack_from("<H", tiff, at)[0] in (256, 257):
            struct.pack_into("<HI", tiff, at + 2, 4, 1)
            struct.pack_into("<I", tiff, at + 8, 60_000)
    jpeg = bytearray(encoded("JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    bmp = bytearray(encoded("BMP"))
    struct.pack_into("<ii", bmp, 18, 60_000, 60_000)
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\x3f\xff\xff\x3f" + b"VP8L\x00\0\0\0"
    text = b"comment\0\0" + zlib.compress(bytes(50_000_000), 9)
    return {
        "PNG of 900 megapixels": png_of(30_000, 30_000, zeros),
        "PNG of 2^31 a side": png_of(2**31 - 1, 2**31 - 1, zeros),
        "PNG without pixels": png_of(0, 0, b""),
        "PNG with a long text": png_of(8, 8, zlib.compress(bytes(200)), chunk(b"zTXt", text)),
        "PNG with a long profile": png_of(8, 8, zlib.compress(bytes(200)), chunk(b"iCCP", text)),
        "PNG with too many pixels": png_of(8, 8, zlib.compress(bytes(30_000_000), 9)),
        "PNG that ends early": IMAGE[: len(IMAGE) // 2],
        "GIF of 4 gigapixels": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "GIF with a frame outside": gif.replace(b"\x2c\0\0\0\0", b"\x2c\xff\xff\xff\xff", 1),
        "TIFF of 3.6 gigapixels": bytes(tiff),
        "JPEG of 4 gigapixels": bytes(jpeg),
        "BMP of 3.6 gigapixels": bytes(bmp),
        "WebP of 2^44 pixels": webp,
        "PPM of 10^18 pixels": b"P6 1000000000 1000000000 255\n",
        "ICO": b"\0\0\1\0\1\0\0\0\0\0\1\0\x18\0" + struct.pack("<II", len(IMAGE), 22) + IMAGE,
        "PNG and zip": IMAGE + b"PK\3\4" + bytes(26) + b"PK\5\6" + bytes(18),
        "GIF and JavaScript": b"GIF89a/*" + gif[8:] + b"*/=1;alert(1)",
        "PDF and JPEG": b"%PDF-1.4\n" + encoded("JPEG"),
        "HTML and PNG": b"<script>alert(1)</script>" + IMAGE,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "pickle": b"cos\nsystem\n(S'true'\ntR.",
        "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "gzip": b"\x1f\x8b\x08" + bytes(40),
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100),
        "zeros": bytes(100_000),
        "nothing": b"",
        "one byte": b"\x89",
    }


TAKEN = {
    "PNG with too many pixels", "PNG and zip", "ICO", "PNG with a long text", "PNG with a long profile",
    "GIF with a frame outside", "GIF and JavaScript",
}  # fmt: skip
"""Bombs and polyglots of which some are read as the small image that they are, too."""


@pytest.mark.parametrize("name", bombs())
def test_bombs_and_polyglots_get_one_line(server, name):
    found = server.post("/predict", bombs()[name], headers={"Content-Type": "image/png"})
    if found.status_code == 200:
        assert name in TAKEN
    else:
        refused_in_one_line(found)
    assert server.post("/predict", IMAGE).status_code == 200


def mutations(count):
    """Seeded damage to small files of all common formats: bytes changed, cut, doubled, and pieces of two swapped."""
    chance = random.Random(20261126)
    kinds = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "TGA", "ICO")
    files = [encoded(kind) for kind in kinds]
    files += [encoded("TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits")]
    files += [encoded("JPEG", progressive=True), encoded("PNG", size=(300, 200))]
    for number in range(count):
        data = bytearray(files[number % len(files)])
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            at = chance.randrange(len(data))
            match chance.randrange(6):
                case 0:
                    data[at] ^= 1 << chance.randrange(8)
                case 1:
                    data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 2:
                    data[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
                case 3:
                    del data[at : at + chance.randrange(1, 60)]
                case 4:
                    data[at:at] = data[at : at + chance.randrange(1, 200)]
                case 5:
                    data[at:] = chance.choice(files)[at:]
            data = data or bytearray(b"x")
        yield bytes(data)


def test_mutated_images_get_an_answer_or_one_line_alone_and_in_a_form(server):
    counts = {200: 0, 400: 0}
    damaged = list(mutations(200))
    for data in damaged:
        found = server.post("/predict", data, headers={"Content-Type": "application/octet-stream"})
        counts[200 if found.status_code == 200 else 400] += 1
        if found.status_code != 200:
            assert refused_in_one_line(found) in (413, 415, 422)
    assert min(counts.values()) > 20, counts
    for start in range(0, 200, 50):
        files = [("image", (f"{n}.png", data)) for n, data in enumerate(damaged[start : start + 50])]
        found = server.post("/predict", files=files)
        assert found.status_code == 200, found.text[:300]
        for prediction in found.json()["predictions"]:
            assert (prediction["error"] is None) == (prediction["label"] is not None)
    nothing_is_left(server)


def test_mutated_requests_get_an_answer_or_one_line(server):
    """Forms, JSON and queries that are damaged."""
    chance = random.Random(1)
    boundary = "multipart/form-data; boundary=b"
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + IMAGE + b"\r\n--b--\r\n"
    body = json.dumps({"images": [{"data": base64.b64encode(IMAGE).decode(), "roi": [0, 0, 5, 5]}], "top_k": 3})
    for number in range(150):
        sent = bytearray((form, body.encode())[number % 2])
        for _ in range(chance.choice((1, 3, 10))):
            at = chance.randrange(len(sent))
            sent[at : at + chance.randrange(3)] = bytes(chance.choices(b'\0\r\n-"[]{},:0b\xff', k=chance.randrange(4)))
        kind = (boundary, "application/json")[number % 2]
        found = server.post("/predict", bytes(sent), headers={"Content-Type": kind})
        if found.status_code != 200:
            refused_in_one_line(found)
    for body in (
        b"[" * 100_000,
        b'{"images":' * 50_000,
        b'{"images":[' + b"{}," * 50_000 + b"{}]}",
        b'{"top_k":1e999}',
    ):
        refused_in_one_line(server.post("/predict", body, headers={"Content-Type": "application/json"}))
    for query in (
        "roi=0,0,99999999,9",
        "roi=9,9,0,0",
        "top_k=-1",
        "top_k=%00",
        "explain=%F0%9F",
        "model=..%2F..%2Fetc",
    ):
        refused_in_one_line(server.post(f"/predict?{query}", IMAGE))
    nothing_is_left(server)


JUNK = (
    b"null", b"-1", b"1e999", b'""', b"[]", b"{}", b"true", b"[[[]]]", b"9" * 30,
    b'"\\ud800"', b"\0", b"\xff", b'"a":1,',
)  # fmt: skip


def test_mutated_requests_of_every_protocol_get_an_answer_or_one_line(server):
    chance, text = random.Random(3), base64.b64encode(IMAGE).decode()
    described = server.get("/v2/models/tiny").json()["inputs"]
    inputs = [
        {"name": each["name"], "datatype": each["datatype"], "shape": shape, "data": data}
        for each in described
        for shape, data in (([1], [text]), ([1, 8, 8, 3], [1] * 192))
    ]
    values = [
        {"images": [{"data": text}]},
        {"inputs": text, "parameters": {"top_k": 3}},
        {"instances": [{"b64": text}]},
        *({"inputs": [each], "outputs": [{"name": "logits", "parameters": {"classification": 2}}]} for each in inputs),
    ]
    right = [IMAGE, *(json.dumps(value).encode() for value in values)]
    paths = server.get("/openapi.json").json()["paths"]
    asked = [path.format(model="tiny", version="1") for path, how in paths.items() if "post" in how]
    assert len(asked) > 4
    for path in asked:
        for _ in range(120):
            sent = bytearray(chance.choice(right))
            for _ in range(chance.choice((0, 1, 1, 2, 4))):
                at = chance.randrange(len(sent))
                sent[at : at + chance.randrange(6)] = chance.choice(JUNK)
            headers = {"Content-Type": chance.choice(("application/json", "application/octet-stream", "image/png", ""))}
            if chance.random() < 0.3:
                headers["Inference-Header-Content-Length"] = chance.choice(("0", "-1", "10", "99999", "x"))
            found = server.post(path, bytes(sent), headers=headers)
            if found.status_code != 200:
                refused_in_one_line(found)
    nothing_is_left(server)


# ---------------------------------------------------------------- a process of its own


class Process:
    """``signsclf serve`` in a process of its own."""

    def __init__(self, folder, model, *options, **settings):
        environ = {key: value for key, value in os.environ.items() if key != "PORT"}
        command = [
            sys.executable, "-m", "signsclf", "serve", str(model), "--port", "0", "--runners", "1", "--threads", "1",
            "--max-batch", "8", "--drain", "0", *options,
        ]  # fmt: skip
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, cwd=folder, stderr=subprocess.PIPE, text=True, encoding="utf-8",
            env={**environ, "TMPDIR": str(folder), "HOME": str(folder)}, **{"stdout": subprocess.DEVNULL, **settings},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(lambda: self.said("listening on ") or self.process.poll() is not None, "start")
        assert self.process.poll() is None, self.lines
        self.url = self.said("listening on ").split()[-1]

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def said(self, text):
        return next((line for line in list(self.lines) if text in line), None)

    def end(self):
        """Its exit code, after SIGTERM where it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._reader.join(PATIENCE)

    def peak(self):
        """Bytes of memory at its most."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError


@pytest.fixture
def started(tmp_path, tiny):
    processes = []

    def start(*options, model=tiny, **settings):
        processes.append(Process(tmp_path, model, *options, **settings))
        return processes[-1]

    yield start
    for found in processes:
        found.end()


posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def load(url, stop, count=6):
    """Clients that send one image after another until ``stop`` is set or their server is not ready for more.

    Returns the threads, and what became of each request: its status, or the error.
    """
    outcomes: list[int | str] = []

    def one():
        with requests.Session() as session:
            session.trust_env = False
            while not stop.is_set():
                try:
                    found = session.post(f"{url}/predict", IMAGE, timeout=PATIENCE)
                except requests.RequestException as error:
                    outcomes.append(repr(error))
                    return
                outcomes.append(found.status_code)
                if found.status_code == 429:
                    time.sleep(0.1)
                if found.headers.get("connection") == "close":
                    return

    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, outcomes


@posix
def test_sigterm_under_load_loses_no_accepted_request(started):
    server = started("--drain", "0.5")
    stop = threading.Event()
    threads, outcomes = load(server.url, stop)
    wait_for(lambda: len(outcomes) > 50, "requests")
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert set(outcomes) <= {200, 429} and outcomes.count(200) > 40
    assert server.process.wait(PATIENCE) == 0, server.lines


@posix
def test_sighup_under_load_loses_nothing_and_the_model_is_read_again(started):
    server = started()
    stop = threading.Event()
    threads, outcomes = load(server.url, stop)
    for count in (1, 2, 3):
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: sum("unchanged" in line for line in list(server.lines)) >= count, server.lines)  # noqa: B023
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert set(outcomes) <= {200, 429} and outcomes.count(200) > 10
    assert server.end() == 0


@posix
def test_a_second_signal_does_not_wait(started):
    server = started("--drain", "600")
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: requests.get(f"{server.url}/health/ready", timeout=PATIENCE).status_code == 503, "not ready")
    assert requests.post(f"{server.url}/predict", IMAGE, timeout=PATIENCE).status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 128 + signal.SIGTERM


@posix
def test_on_a_full_disk_everything_is_answered_and_nothing_is_written(started, tmp_path):
    """Where no file may grow by a byte, and standard output is a full disk, into which the log goes."""
    import resource

    full = Path("/dev/full")
    with full.open("w") if full.exists() else contextlib.nullcontext(subprocess.DEVNULL) as output:
        server = started(
            "--access-log", stdout=output, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        )
        large = png("blue", (1500, 1500)) + bytes(3_000_000)
        with requests.Session() as session:
            for _ in range(5):
                assert session.post(f"{server.url}/predict", large, timeout=PATIENCE).status_code == 200
                files = [("f", (f"{n}.png", large)) for n in range(3)]
                assert session.post(f"{server.url}/predict", files=files, timeout=PATIENCE).status_code == 200
            assert session.get(f"{server.url}/metrics", timeout=PATIENCE).status_code == 200
        with connect(server.url) as client:
            # A line of the log that is lost costs not even the connection.
            for _ in range(5):
                client.sendall(POST)
                assert answer(client)[0] == 200
        assert server.end() == 0, server.lines
    assert list(tmp_path.iterdir()) == []


@linux
def test_bombs_at_once_take_bounded_memory(started):
    """Images of 4 megapixels each in a few kilobytes, more at once than there are threads, and larger ones."""
    server = started("--max-pixels", "4000000", "--max-bytes", "2000000")
    fair = png_of(2000, 2000, zlib.compress(bytes(2000 * 6001), 9))
    assert requests.post(f"{server.url}/predict", fair, timeout=PATIENCE).status_code == 200
    before, codes = server.peak(), []

    def one(n):
        sent = [fair, *list(bombs().values())[:2], bytes(3_000_000)][n % 4]
        with contextlib.suppress(requests.ConnectionError):
            codes.append(requests.post(f"{server.url}/predict", sent, timeout=PATIENCE).status_code)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert set(codes) <= {200, 413, 429} and 200 in codes
    # 7 bytes a pixel and decoding thread, 2 MB a body, and as much again for the allocator.
    cores = len(os.sched_getaffinity(0))
    assert server.peak() - before < 2 * (4_000_000 * 7 * (cores + 1) + 80 * 2_000_000)


# ---------------------------------------------------------------- models and clocks


def damage(folder, how):
    network = folder / "model.onnx"
    if how == "truncated":
        network.write_bytes(network.read_bytes()[:-100])
    elif how == "other bytes":
        data = bytearray(network.read_bytes())
        data[len(data) // 2] ^= 255
        network.write_bytes(data)
    elif how == "no network":
        network.unlink()
    elif how == "no JSON":
        (folder / "config.json").write_text("{")
    elif how == "sums of another":
        (folder / "SHA256SUMS").write_text("0" * 64 + "  model.onnx\n")
    elif how == "a network that is none":
        network.write_bytes(b"no network")
        sums = (folder / "SHA256SUMS").read_text().splitlines()
        sums = [line for line in sums if not line.endswith("model.onnx")] + [f"{file_hash(network)}  model.onnx"]
        (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    elif how == "no folder":
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "how",
    [
        "truncated", "other bytes", "no network", "no JSON", "sums of another", "a network that is none", "no folder",
    ],
)  # fmt: skip
def test_a_damaged_model_never_replaces_the_served_one(serve, tmp_path, how):
    folder = write_model(tmp_path / "own")
    running = serve(folder)
    before = running.post("/predict", IMAGE).json()
    damage(folder, how)
    running.server.refresh()
    wait_for(lambda: any("kept as it was" in line for line in running.said), running.said)
    assert all("\n" not in line for line in running.said)
    assert running.post("/predict", IMAGE).json() == before
    assert running.get("/health/ready").status_code == 200
    # And a whole one does, afterwards.
    shutil.rmtree(folder, ignore_errors=True)
    write_model(folder)
    running.server.refresh()
    wait_for(lambda: any("replaced" in line or "unchanged" in line for line in running.said), running.said)
    assert running.post("/predict", IMAGE).status_code == 200


def test_a_clock_that_is_set_changes_nothing(serve, monkeypatch):
    running = serve(idle_seconds=60.0)
    jump = [0.0]
    clock, clock_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: clock() + jump[0])
    monkeypatch.setattr(time, "time_ns", lambda: clock_ns() + int(jump[0] * 1e9))
    with connect(running.url) as client:
        for jump[0] in (0.0, 86400.0, -86400.0, 4e9, -1.7e9):
            client.sendall(POST)
            found, body = answer(client)
            assert found == 200 and json.loads(body)["predictions"][0]["error"] is None
    nothing_is_left(running)


def test_only_the_log_reads_the_clock_that_can_be_set():
    """All deadlines and timings are monotonic."""
    found = set()
    for path in Path(signsclf.serve.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Name)}
        if names & {"time.time", "time.time_ns", "time.gmtime", "time.localtime", "datetime"}:
            found.add(path.name)
    assert found <= {"telemetry.py"}


def test_a_connection_that_says_nothing_at_all_is_told_nothing(serve):
    running = serve(**QUICK)
    with connect(running.url) as client:
        assert rest(client) == b""
