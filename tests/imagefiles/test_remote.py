"""Object stores: what is read from an S3 server on the loopback address, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import threading
import urllib.parse
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from tinysource import flags

from signsclf import images
from signsclf.data.cache import Cache, decode_all
from signsclf.data.places import is_address
from signsclf.data.table import describe, read_source
from signsclf.errors import BadImageError, SignsclfError, SourceError
from signsclf.imagefiles import remote
from signsclf.inference.listing import expand

pytest.importorskip("moto")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.serve

SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"}
"""What moto asks of those who replace an object; it checks no signature."""


class Store:
    """moto's S3 behind a gate that counts requests, and refuses those that a test tells it to."""

    def __init__(self, app) -> None:
        self.app, self.seen = app, []
        self.busy, self.forbidden = 0, ""

    def __call__(self, environ, start_response):
        path = urllib.parse.unquote(environ["PATH_INFO"])
        self.seen.append((environ["REQUEST_METHOD"], path))
        body = b"<Error><Code>%s</Code><Message>%s</Message></Error>"
        if self.busy and environ["REQUEST_METHOD"] == "GET":
            self.busy -= 1
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [body % (b"SlowDown", b"Please reduce your request rate.")]
        if self.forbidden and path.endswith(self.forbidden):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [body % (b"AccessDenied", b"Access Denied")]
        return self.app(environ, start_response)

    def put(self, key: str, data: bytes) -> str:
        answer = requests.put(f"{self.url}/bucket/{urllib.parse.quote(key)}", data=data, headers=SIGNED, timeout=10)
        assert answer.ok, answer.text
        return f"s3://bucket/{key}"

    def put_folder(self, folder: Path, below: str) -> str:
        for path in folder.rglob("*.*"):
            if path.is_file():
                self.put(f"{below}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://bucket/{below}"


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *args) -> None:
            """Say nothing."""

    store = Store(DomainDispatcherApplication(create_backend_app))
    listening = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    store.url = f"http://127.0.0.1:{listening.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": store.url,
            "AWS_ACCESS_KEY_ID": "AKIATESTING",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        remote._file_system.cache_clear()
        requests.put(f"{store.url}/bucket", timeout=10).raise_for_status()
        yield store
    remote._file_system.cache_clear()
    listening.shutdown()
    thread.join()


@pytest.fixture
def store(server, tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote.is_object.cache_clear()
    images._archives.clear()
    server.busy, server.forbidden = 0, ""
    server.seen.clear()
    return server


def picture(red: int = 200) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(data, "PNG")
    return data.getvalue()


class TestReading:
    def test_an_object_whatever_its_name(self, store):
        for key in ("plain.png", "a b/ö #1?x=%20+&.png", "sub/.hid/[x]{1}.png"):
            path = store.put(key, picture())
            assert images.read(path) == picture()
            assert images.load(path, (2, 2))[0, 0].tolist() == [200, 0, 0]
            assert images.image_wh(path) == (8, 8)
            assert images.head(path, 4) == b"\x89PNG"

    @pytest.mark.parametrize("key", ["none.png", "none/a.zip/0.png"])
    def test_one_that_is_not_there(self, store, key):
        with pytest.raises(BadImageError, match=r"s3://bucket/none.*cannot be read \(No such file or directory\)$"):
            images.read(f"s3://bucket/{key}")

    def test_one_that_may_not_be_read(self, store):
        path = store.put("mine.png", picture())
        store.forbidden = "mine.png"
        with pytest.raises(BadImageError, match=r"mine\.png: cannot be read \(.*ACCESS_DENIED") as refused:
            images.read(path)
        assert SECRET not in str(refused.value) and "\n" not in str(refused.value)

    def test_one_that_is_too_large_is_not_transferred(self, store, monkeypatch):
        path = store.put("large.png", picture() + bytes(1000))
        monkeypatch.setattr(images, "MAX_BYTES", 100)
        store.seen.clear()
        with pytest.raises(BadImageError, match="too large"):
            images.read(path)
        assert [method for method, _ in store.seen] == ["HEAD"]

    def test_a_store_that_is_busy_is_asked_again(self, store):
        path = store.put("busy.png", picture())
        store.busy = 2
        store.seen.clear()
        assert images.read(path) == picture()
        assert Counter(method for method, _ in store.seen) == {"HEAD": 1, "GET": 3}

    @pytest.mark.parametrize(
        "address", ["s3://AKIAME:hunter2@bucket/a.png", "S3://:hunter2@bucket", "gs://a:hunter2@b/c"]
    )
    def test_credentials_in_an_address_are_refused_and_not_shown(self, cli, model, store, address, tmp_path):
        table = tmp_path / "t.csv"
        table.write_text(f"path,label\n{address},a\n")
        store.seen.clear()
        for call in (read_source, lambda path: list(expand([path])), lambda _: read_source(table)):
            with pytest.raises(SignsclfError, match="credentials in an address") as refused:
                call(address)
            assert "hunter2" not in str(refused.value)
        for command in (["predict", "--model", model], ["train", "--out", tmp_path / "m"], ["evaluate", model]):
            ran = cli(*command, address)
            assert ran.code and "hunter2" not in ran.out + ran.err, command
        ran = cli("predict", "--model", model, "-", stdin=address)
        assert ran.code and "hunter2" not in ran.out + ran.err
        assert store.seen == []

    def test_web_addresses_stay_refused(self):
        assert is_address("https://example.org/a.png") and not is_address("s3://bucket/a.png")
        with pytest.raises(SourceError, match="a web address, which is not fetched"):
            read_source("https://example.org/a.zip")


class TestSources:
    def test_class_folders_are_those_on_disk(self, store, source):
        address = store.put_folder(source, "shapes")
        store.put("shapes/.thumbs/0.png", picture())
        here, there = read_source(source), read_source(f"{address}/")
        assert there.classes == here.classes and there.layout is here.layout
        assert {there.relative(p) for p in there.table["path"]} == {here.relative(p) for p in here.table["path"]}
        assert there.table["group"].tolist() == here.table["group"].tolist()
        assert any(".thumbs" in note for note in there.notes)
        assert describe(there)[1:6] == describe(here)[1:6]
        again = read_source(there.origin, there.reading)
        assert again.table.tolist() == there.table.tolist()
        pixels = decode_all(there.table, 16)
        assert np.array_equal(pixels.pixels, decode_all(here.table, 16).pixels)

    def test_decoded_images_are_cached_until_an_object_changes(self, store, tmp_path):
        for i, label in enumerate("aabb"):
            store.put(f"few/{label}/{i}.png", picture(i))
        table = read_source("s3://bucket/few").table
        first = decode_all(table, 8, Cache(folder=tmp_path / "c"))
        store.seen.clear()
        assert decode_all(table, 8, Cache(folder=tmp_path / "c")).entry == first.entry is not None
        assert not [path for _, path in store.seen if path.endswith(".png")]
        store.put("few/a/0.png", picture(99) + b"more")
        assert decode_all(table, 8, Cache(folder=tmp_path / "c")).pixels[0, 0, 0, 0] == 99

    @pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
    def test_a_table_and_its_images(self, store, name):
        far = store.put("elsewhere/2.png", picture(2))
        rows = [("0.png", "a"), ("sub/1.png", "b"), (far, "b")]
        for path, _ in rows[:2]:
            store.put(f"table/{path}", picture())
        lines = [f"{path},{label}" for path, label in rows]
        text = "\n".join(["path,label", *lines])
        if name.endswith("jsonl"):
            text = "\n".join(f'{{"path": "{path}", "label": "{label}"}}' for path, label in rows)
        found = read_source(store.put(f"table/{name}", text.encode()))
        assert found.table["path"].tolist() == ["s3://bucket/table/0.png", "s3://bucket/table/sub/1.png", far]
        assert [found.relative(path) for path in found.table["path"][:2]] == ["0.png", "sub/1.png"]
        assert all(images.read(path) for path in found.table["path"])

    def test_a_table_on_disk_names_objects(self, store, tmp_path):
        paths = [store.put(f"named/{i}.png", picture(i)) for i in range(2)]
        (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{path},c{i}\n" for i, path in enumerate(paths)))
        found = read_source(tmp_path / "t.csv")
        assert found.table["path"].tolist() == paths
        assert decode_all(found.table, 8).pixels[1, 0, 0, 0] == 1

    def test_images_in_parquet(self, store):
        import pyarrow as pa
        import pyarrow.parquet

        table = pa.table({"image": [{"bytes": picture(i)} for i in range(4)], "label": list("abab")})
        file = io.BytesIO()
        pa.parquet.write_table(table, file, row_group_size=2)
        address = store.put("hf/train-00000-of-00001.parquet", file.getvalue())
        for place in (address, "s3://bucket/hf"):
            found = read_source(place)
            assert found.classes == ("a", "b") and len(found.table) == 4
            assert decode_all(found.table, 8).pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
    def test_an_archive_is_transferred_once(self, store, name):
        data = io.BytesIO()
        members = {f"{label}/{i}.png": picture(i) for i, label in enumerate("aabb")}
        if name == "a.zip":
            with zipfile.ZipFile(data, "w") as file:
                for member, content in members.items():
                    file.writestr(member, content)
        else:
            with tarfile.open(fileobj=data, mode="w:gz" if name.endswith("gz") else "w") as file:
                for member, content in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
        address = store.put(f"packed/{name}", data.getvalue())
        store.seen.clear()
        found = read_source(address)
        assert found.classes == ("a", "b")
        assert sorted(found.table["path"]) == [f"{address}/{member}" for member in members]
        assert [images.read(path) for path in sorted(found.table["path"])] == list(members.values())
        assert list(expand([address], recursive=True)) == [f"{address}/{member}" for member in members]
        assert list(expand([f"{address}/b"])) == [f"{address}/b/2.png", f"{address}/b/3.png"]
        assert Counter(method for method, path in store.seen if path.endswith(name))["GET"] <= 2

    def test_web_dataset_shards(self, store):
        for i in range(2):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode="w") as file:
                for name, content in ((f"{i}.png", picture(i)), (f"{i}.cls", b"%d" % i)):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    file.addfile(info, io.BytesIO(content))
            store.put(f"wds/s-{i:03}.tar", data.getvalue())
        for place in ("s3://bucket/wds", "s3://bucket/wds/s-{000..001}.tar"):
            assert read_source(place).table["path"].tolist() == [
                f"s3://bucket/wds/s-00{i}.tar/{i}.png" for i in range(2)
            ]

    @pytest.mark.parametrize(
        ("address", "said"),
        [
            ("s3://bucket/nothing", "no such object or folder in the store"),
            ("s3://nobucket/x", "no such object or folder|NO_SUCH_BUCKET"),
            ("s3://", "no bucket in the address"),
            ("s3://bucket/one.png", "a source is a folder, an archive"),
            ("s3://bucket/s-{0..3}.tar", "No such file"),
        ],
    )
    def test_what_is_refused(self, store, address, said):
        store.put("one.png", picture())
        with pytest.raises(SourceError, match=said) as refused:
            read_source(address)
        assert "\n" not in str(refused.value)


class TestCommands:
    def test_predict(self, cli, model, source, store):
        address = store.put_folder(source, "predicted")
        store.put("predicted/bad.png", b"\x89PNG\r\n\x1a\nx")
        one = store.put("predicted/one.png", (source / "red bar" / "00000_00000.png").read_bytes())
        store.forbidden = "forbidden.png"
        ran = cli(
            "predict", "--model", model, "--format", "csv", address, "s3://bucket/none.png", f"{address}/forbidden.png"
        )
        rows = list(csv.DictReader(ran.out.splitlines()))
        assert ran.code == 1
        lost = ["s3://bucket/none.png", f"{address}/forbidden.png"]
        assert [row["path"] for row in rows] == [f"{address}/bad.png", one, *lost]
        assert [row["label"] for row in rows] == ["", "red bar", "", ""]
        for row, said in zip(rows, ("truncated", "", "No such file", "ACCESS_DENIED"), strict=True):
            assert said in row["error"]
        assert SECRET not in ran.out + ran.err
        here = cli("predict", "--model", model, "--format", "csv", "-r", source).out
        there = cli(
            "predict",
            "--model",
            model,
            "--format",
            "csv",
            "-r",
            *[f"{address}/{c}" for c in ("blue disc", "green square", "red bar")],
        ).out
        assert [line.split(",")[1:] for line in there.splitlines()] == [
            line.split(",")[1:] for line in here.splitlines()
        ]

    @pytest.mark.slow
    def test_train_and_evaluate_give_what_they_give_on_disk(self, cli, source, store, tmp_path):
        address = store.put_folder(source, "trained")
        ran = cli("train", address, "--out", tmp_path / "far", *flags())
        assert ran.code == 0, ran.err
        assert f"signsclf evaluate {tmp_path}/far {address}" in ran.err
        assert cli("train", source, "--out", tmp_path / "near", *flags()).code == 0
        figures = [
            cli("evaluate", tmp_path / name, place, "--json") for name, place in (("far", address), ("near", source))
        ]
        assert figures[0].code == figures[1].code == 0, figures[0].err
        assert (tmp_path / "far/model.safetensors").read_bytes() == (tmp_path / "near/model.safetensors").read_bytes()
        assert cli("data", "check", address).code == 0

    @pytest.mark.scale
    def test_a_batch_of_objects(self, cli, model, source, store, tmp_path):
        address = store.put_folder(source / "red bar", "batch")
        plan = ("batch", "plan", address, tmp_path / "out", "--model", model)
        assert cli(*plan, "--shard", 4).code == 0
        listed = parquet.read_table(tmp_path / "out/manifest.parquet").to_pydict()
        assert listed["path"][0].startswith(f"{address}/") and None not in listed["size"] + listed["mtime_ns"]
        store.put(listed["path"][1].removeprefix("s3://bucket/"), b"another")
        ran = cli("batch", "run", tmp_path / "out")
        assert ran.code == 1, ran.err
        tables = [parquet.read_table(part).to_pylist() for part in sorted((tmp_path / "out").glob("part-*"))]
        rows = [row for table in tables for row in table]
        assert [row["path"] for row in rows] == listed["path"]
        assert [row["error"] for row in rows if row["error"]] == [f"{rows[1]['path']}: changed since the plan was made"]
        here = cli("predict", source / "red bar", "--model", model, "--format", "jsonl").out.splitlines()
        near = {Path(row["path"]).name: row for row in map(json.loads, here)}
        for row in rows[:1] + rows[2:]:
            assert row["probability"] == near[row["path"].rpartition("/")[2]]["probability"]
        assert SECRET not in (tmp_path / "out/plan.json").read_text() + ran.err

    def test_a_batch_of_nothing(self, cli, model, store, tmp_path):
        plan = ("batch", "plan", "s3://bucket/nothing", tmp_path / "out", "--model", model)
        assert "s3://bucket/nothing: no images at this address" in cli(*plan).complaint

    def test_a_batch_of_a_table_of_objects(self, cli, model, source, store, tmp_path):
        address = store.put_folder(source / "red bar", "listed")
        store.put("listed/t.csv", b"path\n00000_00000.png\ns3://bucket/listed/00000_00001.png\n")
        assert cli("batch", "plan", f"{address}/t.csv", tmp_path / "out", "--model", model).code == 0
        listed = parquet.read_table(tmp_path / "out/manifest.parquet").to_pydict()
        assert listed["path"] == [f"{address}/00000_00000.png", f"{address}/00000_00001.png"]
        assert None not in listed["size"]
