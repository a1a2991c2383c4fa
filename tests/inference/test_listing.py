from __future__ import annotations

import io
import os
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from signsclf.errors import SignsclfError
from signsclf.inference.listing import expand, listed_names, why_no_image


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    names = "10.png 9.png b.JPG note.txt .hidden.png sub/2.ppm sub/deep/1.png empty/x.txt [1].png"
    for name in names.split():
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "A.zip", "w") as archive:
        for name in ("10.png", "9.png", "in/2.jpg", "in/deep/3.jpg", "__MACOSX/._9.png", "in/a.txt"):
            archive.writestr(name, "x")
    return tmp_path


def listed(*arguments: str, recursive: bool = False, lines: bytes | None = None) -> list[str]:
    names = None if lines is None else listed_names(io.BytesIO(lines))
    return [path.replace(os.sep, "/") for path in expand(arguments, recursive, names)]


def test_folders_in_natural_order_without_hidden_and_other_files(tree: Path):
    assert listed("d") == ["d/9.png", "d/10.png", "d/[1].png", "d/b.JPG"]
    assert listed("d", recursive=True) == [*listed("d"), "d/sub/2.ppm", "d/sub/deep/1.png"]


def test_files_and_arguments_stay_in_the_order_given(tree: Path):
    assert listed("d/b.JPG", "d/sub", "d/note.txt") == ["d/b.JPG", "d/sub/2.ppm", "d/note.txt"]


@pytest.mark.parametrize("argument", ["none.png", "d/empty", "*.nothing", "synthetic:1:2", "bro.zip", "A.zip/none"])
def test_what_leads_to_no_image_is_given_as_it_is(tree: Path, argument: str):
    (tree / "bro.zip").write_bytes(b"no archive")
    assert listed(argument) == [argument]


def test_patterns_that_no_shell_has_expanded(tree: Path):
    assert listed("d/*.png") == ["d/9.png", "d/10.png", "d/[1].png"]
    assert listed("d/**/*.p*m") == ["d/sub/2.ppm"]
    assert listed("d/su?") == ["d/sub/2.ppm"]
    assert listed("d/[1].png") == ["d/[1].png"]  # a file of that very name
    assert listed(f"{tree}/d/1?.png") == [f"{tree}/d/10.png".replace(os.sep, "/")]


def test_archives_are_folders(tree: Path):
    assert listed("A.zip") == ["A.zip/9.png", "A.zip/10.png"]
    assert listed("A.zip", recursive=True) == [*listed("A.zip"), "A.zip/in/2.jpg", "A.zip/in/deep/3.jpg"]
    assert listed("A.zip/in", "A.zip/in/") == ["A.zip/in/2.jpg"] * 2
    assert listed("A.zip/in/deep/3.jpg") == ["A.zip/in/deep/3.jpg"]


def test_lines_stand_where_the_dash_is(tree: Path):
    lines = b"d/sub\r\n\nnone.png\n-\nd/9.png"
    assert listed("A.zip/9.png", "-", "d/10.png", lines=lines) == [
        "A.zip/9.png", "d/sub/2.ppm", "none.png", "d/9.png", "d/10.png",
    ]  # fmt: skip
    assert listed("-") == ["-"]


def test_lines_are_read_as_they_are_needed(tree: Path):
    read = []

    def lines():
        for i in range(1_000_000):
            read.append(i)
            yield f"{i}.png"

    paths = expand(["-"], listed=lines())
    assert [next(paths) for _ in range(3)] == ["0.png", "1.png", "2.png"]
    assert len(read) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights on Windows")
def test_links_are_followed_but_not_round_in_circles(tree: Path):
    (tree / "d" / "sub" / "up").symlink_to(tree / "d")
    (tree / "d" / "other").symlink_to(tree / "A")
    (tree / "A").mkdir()
    (tree / "A" / "5.png").write_bytes(b"x")
    assert listed("d", recursive=True)[4:] == ["d/other/5.png", "d/sub/2.ppm", "d/sub/deep/1.png"]


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs rights")
def test_a_folder_that_may_not_be_read_is_given_as_it_is(tree: Path):
    (tree / "d" / "sub").chmod(0)
    assert "d/sub" in listed("d", recursive=True)
    (tree / "d" / "sub").chmod(0o700)


@pytest.mark.parametrize(
    "written",
    [
        b"\xef\xbb\xbfd/9.png\r\nd/\xc3\xbc.png\r\n",
        "d/9.png\r\nd/ü.png\r\n".encode("utf-16"),
        b"\xfe\xff" + "d/9.png\nd/ü.png".encode("utf-16-be"),
        "d/9.png\nd/ü.png\n".encode("utf-16-le"),
        "d/9.png\0d/ü.png\0".encode(),
        "\n\nd/9.png\n-\nd/ü.png".encode(),
    ],
)
def test_lists_as_editors_and_find_write_them(written):
    assert list(listed_names(io.BytesIO(written))) == ["d/9.png", "d/ü.png"]
    one_by_one = Slowly([written[i : i + 1] for i in range(len(written))])
    assert list(listed_names(one_by_one)) == ["d/9.png", "d/ü.png"]


class Slowly:
    """A pipe that gives these pieces one after another, and remembers how many were asked for."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.asked = pieces, 0

    def read(self, n: int) -> bytes:
        self.asked += 1
        return self.pieces.pop(0) if self.pieces else b""


def test_a_name_is_given_before_the_next_is_there():
    pipe = Slowly([b"a.png\n", b"b.p", b"ng\nc.png\n"])
    names = listed_names(pipe)
    assert (next(names), pipe.asked) == ("a.png", 1)
    assert (next(names), pipe.asked) == ("b.png", 3)
    assert list(names) == ["c.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="names are bytes on POSIX")
def test_names_that_are_no_text_and_names_with_line_breaks():
    names = list(listed_names(io.BytesIO(b"a.png\nb\xe9.png\nc.png\n")))
    assert [os.fsencode(name) for name in names] == [b"a.png", b"b\xe9.png", b"c.png"]
    assert list(listed_names(io.BytesIO(b"a\nb.png\0c.png\0")))[-1] == "c.png"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "an image"),
        (b"\xff\xd8\xff\xe0", "an image"),
        (b"\xff\xfea\0\n", "UTF-16"),
        (b"x" * 1_100_000, "a million"),
    ],
)
def test_what_is_no_list_is_named(written, told):
    with pytest.raises(SignsclfError, match=told):
        list(listed_names(io.BytesIO(written)))
    assert list(listed_names(io.BytesIO(b""))) == []


def test_images_are_known_whatever_they_are_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("photo", "PNG")
    Image.new("RGB", (4, 4)).save("b.jfif", "JPEG")
    for name in ("one.HEIC", "two.heic", "c.svg", "notes.txt"):
        Path(name).write_bytes(b"x")
    skipped: Counter[str] = Counter()
    assert list(expand(["."], skipped=skipped)) == ["b.jfif", "photo"]
    assert skipped[".svg"] == 1


def test_what_leads_to_no_image_is_told_by_its_kind(tree, monkeypatch):
    (tree / "phone").mkdir()
    (tree / "phone" / "a.svg").write_bytes(b"x")
    (tree / "nothing").mkdir()
    (tree / "up" / "down").mkdir(parents=True)
    (tree / "up" / "down" / "a.png").write_bytes(b"x")
    with zipfile.ZipFile(tree / "up.zip", "w") as archive:
        archive.writestr("in/a.png", "x")
        archive.writestr("texts/a.txt", "x")
    zipfile.ZipFile(tree / "empty.zip", "w").close()
    for path, told in {
        "nothing": "an empty folder",
        "d/empty": "only 1 other file",
        "phone": "1 .svg (not read",
        "up": "--recursive",
        "up.zip": "--recursive",
        "up.zip/texts": "no images in this archive, only 1 other file",
        "empty.zip": "an empty archive",
        "none/*.png": "no file matches this pattern",
    }.items():
        assert told in (why_no_image(path) or ""), path
    for path in ("d/9.png", "d/note.txt", "none.png", "A.zip/none", "x" * 300):
        assert why_no_image(path) is None, path
    if sys.platform != "win32":
        (tree / "broken.png").symlink_to("gone.png")
        assert "broken link" in why_no_image("broken.png")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert "cannot be listed (Permission denied)" in why_no_image("d")


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_images_are_counted_by_folder(tmp_path: Path, packed: bool):
    names = [
        "p/.308/a.png",
        "p/.308/b.png",
        "p/.x.png",
        "p/.y.png",
        "p/a.png",
        "p/s/.z.jpg",
        "p/.git/a.png",
        "p/._a.png",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    if packed:
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
    root = f"{tmp_path}/p.zip/p" if packed else f"{tmp_path}/p"
    for recursive, expected in ((True, {".308": 2, ".*": 2, "s/.*": 1}), (False, {".*": 2})):
        hidden: Counter[str] = Counter()
        found = list(expand([root], recursive, hidden=hidden))
        assert [path.replace(os.sep, "/") for path in found] == [f"{root}/a.png"]
        assert {k.replace(os.sep, "/"): n for k, n in hidden.items()} == {f"{root}/{k}": n for k, n in expected.items()}


def test_a_folder_of_hidden_images_alone_is_not_called_empty(tmp_path: Path):
    for name in (".308/a.png", ".308/b.png", ".x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    assert why_no_image(str(tmp_path)).startswith(
        "a folder of hidden images alone: '.308' (2), '.x.png' (1); to include"
    )


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_to_itself_leaves_the_other_images(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "loop").symlink_to("loop")
    for recursive in (False, True):
        assert list(expand([str(tmp_path)], recursive)) == [f"{tmp_path}/a.png", f"{tmp_path}/loop.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["pipe", "pipe.png"])
def test_a_pipe_in_a_folder_is_no_image_and_nobody_waits_for_it(tmp_path, name):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / name)
    (tmp_path / "link").symlink_to(name)
    assert list(expand([str(tmp_path)], recursive=True)) == [str(tmp_path / "a.png")]
