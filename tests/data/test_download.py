"""Against a server on this machine that breaks off, lies, refuses and never ends."""

from __future__ import annotations

import hashlib
import io
import random
import re
import shutil
import socket
import threading
import time
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from signsclf.data import download, gtsrb
from signsclf.data.download import download_gtsrb, fetch
from signsclf.errors import DownloadError
from signsclf.locks import LockedError, locked

BODY = random.Random(0).randbytes(1024 * 1024)
SIZE = len(BODY)
MD5 = hashlib.md5(BODY).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """``files`` by name; ``script``: how to answer the coming requests, ``well`` once it is used up."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"file.bin": BODY})
    script: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    sent_endlessly: int = 0


@pytest.fixture
def server(monkeypatch):
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            how = state.script.pop(0) if state.script else "well"
            name = self.path.rsplit("/", 1)[-1]
            body = state.files.get(name)
            if body is None or how.isdigit():
                self.send_response(int(how) if how.isdigit() else 404)
                self.send_header("Retry-After", "7")
                self.end_headers()
            elif how == "hang up":
                self.close_connection = True
            elif how == "endless":
                self.send_response(200)
                self.end_headers()
                try:
                    while state.sent_endlessly < 100 * SIZE:
                        state.sent_endlessly += self.wfile.write(BODY)
                except OSError:
                    pass
            elif how.startswith("redirect "):
                self.send_response(302)
                self.send_header("Location", how.removeprefix("redirect "))
                self.end_headers()
            else:
                self.answer(body, asked, how)

        def answer(self, body, asked, how):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
            if how == "ignore range, break off":
                start = 0
            if how == "ignore range":
                start = 0
            if how == "wrong":
                body = body[:-1] + bytes([body[-1] ^ 1])
            if start >= len(body):
                self.send_response(416)
                self.end_headers()
                return
            rest = body[start:]
            self.send_response(206 if start else 200)
            if start:
                lie = 1 if how == "wrong range" else 0
                self.send_header("Content-Range", f"bytes {start - lie}-{len(body) - 1}/{len(body)}")
            if how != "no length":
                self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: len(rest) // 2] if how.endswith("break off") else rest)

    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    # A client that hangs up on the endless answer is what is tested, not a trouble to print.
    listening.handle_error = lambda *_: None
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{listening.server_port}"
    state.waits = waits
    yield state
    listening.shutdown()
    listening.server_close()
    thread.join()


def get(server, target, **options):
    return fetch(f"{server.url}/file.bin", target, **{"size": SIZE, "md5": MD5, "sha256": SHA256, **options})


def only_file(folder: Path, name: str) -> bool:
    return [path.name for path in folder.iterdir()] == [name]


def test_a_file_arrives_whole_and_progress_reaches_the_end(server, tmp_path):
    seen = []
    target = get(server, tmp_path / "new folder ü" / "file.bin", progress=lambda *at: seen.append(at))
    assert target.read_bytes() == BODY
    assert only_file(target.parent, "file.bin")
    assert seen[0] == (0, SIZE) and seen[-1] == (SIZE, SIZE)
    assert seen == sorted(seen)


def test_what_is_there_and_right_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    get(server, tmp_path / "file.bin")
    assert server.ranges == []


def test_a_file_of_that_name_with_other_content_is_left_alone(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"someone's own")
    with pytest.raises(DownloadError, match="move or delete"):
        get(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == b"someone's own"
    assert server.ranges == []


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(server, tmp_path):
    server.script = ["break off", "break off"]
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY
    assert server.ranges == [None, f"bytes={SIZE // 2}-", f"bytes={SIZE * 3 // 4}-"]
    assert server.waits == [1, 2]


def test_a_later_process_goes_on_with_what_an_earlier_one_left(server, tmp_path):
    server.script = ["break off"]
    with pytest.raises(DownloadError, match=r"broke off after 524,288 of 1,048,576 bytes.*run this again"):
        get(server, tmp_path / "file.bin", attempts=1)
    assert only_file(tmp_path, "file.bin.part")
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY
    assert server.ranges == [None, f"bytes={SIZE // 2}-"]
    assert only_file(tmp_path, "file.bin")


def test_a_transfer_that_was_complete_but_not_renamed_needs_no_request(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY)
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY
    assert server.ranges == []


def test_a_part_longer_than_the_file_is_started_over(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY + b"more")
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY
    assert server.ranges == [None]


@pytest.mark.parametrize("how", ["ignore range", "wrong range", "416"])
def test_a_server_that_cannot_continue_is_asked_for_the_whole(server, tmp_path, how):
    server.script = ["break off", how]
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY
    assert len(server.ranges) == (2 if how == "ignore range" else 3)


def test_a_server_that_ignores_range_and_breaks_off_again_leaves_no_mixed_file(server, tmp_path):
    server.script = ["break off", "ignore range, break off", "well"]
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY


def test_wrong_bytes_are_deleted_and_named(server, tmp_path):
    server.script = ["wrong"]
    with pytest.raises(DownloadError, match=r"checksum differs.*deleted.*run this again"):
        get(server, tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []
    assert len(server.ranges) == 1


def test_each_checksum_counts_by_itself(server, tmp_path):
    for wrong in ({"md5": "0" * 32}, {"sha256": "0" * 64}):
        with pytest.raises(DownloadError, match="checksum differs"):
            get(server, tmp_path / "file.bin", **wrong)
    get(server, tmp_path / "file.bin", sha256=None, md5=MD5.upper())


def test_not_found_is_said_at_once(server, tmp_path):
    server.script = ["404"]
    with pytest.raises(DownloadError, match=r"404 \(Not Found\).*check the address") as error:
        get(server, tmp_path / "file.bin")
    assert "\n" not in str(error.value)
    assert len(server.ranges) == 1 and server.waits == []
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again_after_the_time_it_names(server, tmp_path):
    server.script = ["503", "hang up"]
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY
    assert server.waits == [7, 2]


def test_a_server_that_stays_busy_is_given_up_in_one_line(server, tmp_path):
    server.script = ["503"] * 9
    with pytest.raises(DownloadError, match=r"503 \(Service Unavailable\); try again later") as error:
        get(server, tmp_path / "file.bin")
    assert "\n" not in str(error.value)
    assert len(server.ranges) == 3


def test_no_server_at_all_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DownloadError, match=r"no connection \(.*\); check the network, then run this again") as error:
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", size=SIZE, md5=MD5)
    assert "\n" not in str(error.value)


def test_endless_data_is_read_no_further_than_the_size(server, tmp_path):
    server.script = ["endless"]
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY
    assert server.sent_endlessly < 50 * SIZE


def test_another_length_than_expected_is_refused_before_a_byte_is_written(server, tmp_path):
    server.files["file.bin"] = b"<html>please log in</html>"
    with pytest.raises(DownloadError, match="offers 26 bytes where 1,048,576 are expected"):
        get(server, tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_more_than_the_disk_holds_is_not_begun(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=SIZE - 1))
    with pytest.raises(DownloadError, match="are needed and"):
        get(server, tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://host/file", "file.bin", "http://[", "http://a b/", "https:///x"]
)
def test_other_addresses_than_http_are_refused(url, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(DownloadError):
        fetch(url, tmp_path / "file.bin", size=SIZE, md5=MD5)


@pytest.mark.parametrize("to", ["file:///etc/hostname", "/file.bin"])
def test_a_redirection_to_a_local_file_or_round_in_circles_is_an_error(server, tmp_path, to):
    server.script = [f"redirect {to}"] * 40
    with pytest.raises(DownloadError, match="cannot be opened"):
        get(server, tmp_path / "file.bin")


def test_a_redirection_to_ftp_is_not_followed(server, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as ftp:
        ftp.setblocking(False)
        server.script = [f"redirect ftp://127.0.0.1:{ftp.getsockname()[1]}/file.bin"] * 3
        with pytest.raises(DownloadError, match="ftp"):
            get(server, tmp_path / "file.bin")
        with pytest.raises(BlockingIOError):
            ftp.accept()


def test_a_redirection_to_the_file_is_followed(server, tmp_path):
    server.files["there"] = BODY
    server.script = ["redirect /there"]
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY


def test_a_target_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DownloadError, match="taken") as error:
        get(server, tmp_path / "taken" / "file.bin")
    assert "\n" not in str(error.value)


@pytest.fixture
def official(server, monkeypatch):
    """A GTSRB of six images in the official layout, on the server."""
    members = {
        "GTSRB_Final_Training_Images.zip": {
            "GTSRB/Readme-Images.txt": b"training",
            **{f"GTSRB/Final_Training/Images/0000{c}/00000_0000{i}.ppm": b"P6" for c in (0, 1) for i in (0, 1)},
            "GTSRB/Final_Training/Images/00000/GT-00000.csv": b"Filename;ClassId\n",
        },
        "GTSRB_Final_Test_Images.zip": {
            "GTSRB/Readme-Images-Final-test.txt": b"test",
            **{f"GTSRB/Final_Test/Images/0000{i}.ppm": b"P6" for i in (0, 1)},
        },
        "GTSRB_Final_Test_GT.zip": {"GT-final_test.csv": b"Filename;ClassId\n"},
    }
    archives = []
    for name, files in members.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        data = server.files[name] = buffer.getvalue()
        archives.append(gtsrb.Archive(name=name, bytes=len(data), md5=hashlib.md5(data).hexdigest()))
    monkeypatch.setattr(gtsrb, "ARCHIVES", tuple(archives))
    return server


def test_gtsrb_lies_unpacked_in_the_official_layout_and_the_zips_are_gone(official, tmp_path):
    seen = []
    brought = download_gtsrb(tmp_path / "data", official.url + "/", progress=lambda *at: seen.append(at))
    root = tmp_path / "data" / "GTSRB"
    assert brought == [root / "Final_Training", root / "Final_Test", root / "GT-final_test.csv"]
    assert len(list(root.glob("Final_Training/Images/*/*.ppm"))) == 4
    assert len(list(root.glob("Final_Test/Images/*.ppm"))) == 2
    assert {path.name for path in root.glob("*.txt")} == {
        "Readme-Images.txt",
        "Readme-Images-Final-test.txt",
    }
    total = sum(archive.bytes for archive in gtsrb.ARCHIVES)
    assert seen[-1] == (total, total) and seen == sorted(seen)
    left = {path.name for path in (tmp_path / "data").iterdir()}
    assert left == {"GTSRB"} | {f"{archive.name}.unpacked" for archive in gtsrb.ARCHIVES}


def test_gtsrb_is_not_fetched_again_and_what_went_missing_is(official, tmp_path):
    first = download_gtsrb(tmp_path, official.url)
    official.ranges.clear()
    assert download_gtsrb(tmp_path, official.url) == first
    assert official.ranges == []
    (tmp_path / "GTSRB/Final_Test/Images/00001.ppm").unlink()
    download_gtsrb(tmp_path, official.url)
    assert len(official.ranges) == 1
    assert (tmp_path / "GTSRB/Final_Test/Images/00001.ppm").is_file()


def test_a_broken_marker_means_not_there(official, tmp_path):
    download_gtsrb(tmp_path, official.url)
    official.ranges.clear()
    for name, text in zip(gtsrb.ARCHIVES, ("", "[]", '{"md5": "0", "files": "x"}'), strict=True):
        (tmp_path / f"{name.name}.unpacked").write_text(text)
    download_gtsrb(tmp_path, official.url)
    assert len(official.ranges) == 3


def test_gtsrb_can_stay_packed_and_be_unpacked_later(official, tmp_path):
    zips = download_gtsrb(tmp_path, official.url, unpack_archives=False)
    assert [path.name for path in zips] == [archive.name for archive in gtsrb.ARCHIVES]
    assert all(zipfile.is_zipfile(path) for path in zips)
    official.ranges.clear()
    download_gtsrb(tmp_path, official.url)
    assert official.ranges == [] and not any(path.exists() for path in zips)


def test_gtsrb_needs_room_for_all_before_it_begins(official, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    total = sum(archive.bytes for archive in gtsrb.ARCHIVES)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=2 * total))
    with pytest.raises(DownloadError, match="are needed and"):
        download_gtsrb(tmp_path, official.url)
    assert official.ranges == []


def test_an_archive_that_is_not_what_it_is_called_keeps_its_zip_and_says_so(official, tmp_path, monkeypatch):
    test, other = gtsrb.ARCHIVES[1], gtsrb.ARCHIVES[2]
    official.files[test.name] = official.files[other.name]
    monkeypatch.setattr(gtsrb, "ARCHIVES", (gtsrb.Archive(name=test.name, bytes=other.bytes, md5=other.md5),))
    with pytest.raises(DownloadError, match="holds no Final_Test"):
        download_gtsrb(tmp_path, official.url)
    assert not (tmp_path / f"{test.name}.unpacked").exists()


def test_leavings_of_a_killed_unpacking_are_cleared_and_own_files_stay(official, tmp_path):
    stale = tmp_path / ".GTSRB_Final_Test_Images.zip.unpacking" / "GTSRB" / "Final_Test" / "half"
    own = tmp_path / "GTSRB" / "Final_Test" / "Images" / "own.txt"
    for path in (stale, own):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    download_gtsrb(tmp_path, official.url)
    assert not list(tmp_path.rglob("half")) and not list(tmp_path.glob(".*"))
    assert own.read_text() == "x" and len(list(own.parent.glob("*.ppm"))) == 2


def test_two_at_once_do_not_write_into_one_file(server, official, tmp_path):
    with locked(tmp_path / "file.bin"), pytest.raises(LockedError, match="another signsclf"):
        get(server, tmp_path / "file.bin")
    with locked(tmp_path / "GTSRB"), pytest.raises(LockedError, match="another signsclf"):
        download_gtsrb(tmp_path, server.url)
    assert list(tmp_path.iterdir()) == []
    assert get(server, tmp_path / "file.bin").read_bytes() == BODY
