from __future__ import annotations

import sys
from pathlib import Path

import pytest

from signsclf.errors import ModelError, SignsclfError, SourceError
from signsclf.files import native_path, user_path

HOME = "USERPROFILE" if sys.platform == "win32" else "HOME"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(HOME, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_home_folder_stands_for_a_tilde_at_the_start_only(home):
    assert user_path("~") == home
    assert user_path("~/m") == user_path(Path("~/m")) == home / "m"
    assert user_path("a/~/m") == Path("a/~/m")
    assert user_path("a~b") == Path("a~b")
    assert user_path("") == Path()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows guesses the folders of others")
def test_an_unknown_user_is_named(home):
    with pytest.raises(ModelError, match=r"~nobody-here/m: there is no user 'nobody-here' here; .*\./~nobody-here/m"):
        user_path("~nobody-here/m", ModelError)
    Path("~nobody-here").mkdir()
    assert user_path("~nobody-here/m") == Path("~nobody-here/m")


@pytest.mark.skipif(sys.platform == "win32", reason="$HOME is of POSIX")
def test_no_home_folder_is_told_and_never_the_root(home, monkeypatch):
    monkeypatch.setenv("HOME", "")
    with pytest.raises(SignsclfError, match="no home folder"):
        user_path("~/m")


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://images.example.org/a.jpg", "download it"),
        ("HTTP://x/a.png?w=3", "download it"),
        ("ftp://bucket/photos", "download it"),
        ("file:///tmp/a.png", "the path alone"),
        ("data:image/png;base64,iVBORw0KGgo", "decode it"),
    ],
)
def test_an_address_is_told_as_such_and_nothing_is_fetched(home, address, remedy, monkeypatch, cli, model):
    import socket

    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    with pytest.raises(SourceError, match=remedy):
        user_path(address, SourceError)
    with pytest.raises(SourceError, match=remedy):
        user_path(Path(address), SourceError)
    ran = cli("predict", address, "--model", model)
    assert ran.code == 1
    assert "address" in ran.out and remedy in ran.out
    assert remedy in cli("data", "check", address).complaint
    assert remedy in cli("predict", "a.png", "--model", address).complaint


def test_what_is_no_address(home):
    Path("https:").mkdir()
    Path("https:/here").mkdir()
    assert user_path("https://here") == Path("https:/here")
    for path in ("C:\\a.png", "c:/a.png", "a:b.png", "synthetic:1:2", "data:x"):
        assert user_path(path) == Path(path)


def test_one_rule_everywhere(home, model, source, monkeypatch, cli):
    import signsclf
    from signsclf.data.cache import cache_folder
    from signsclf.data.table import read_source
    from signsclf.model.folder import read_config

    (home / "m").symlink_to(model)
    (home / "photos").symlink_to(source)
    image = next(source.rglob("*.png")).relative_to(source)
    assert signsclf.load("~/m").predict(f"~/photos/{image}").label
    assert read_config("~/m") == read_config(model)
    assert cache_folder("~/c") == home / "c"
    assert len(read_source("~/photos").table) == len(read_source(str(source)).table)
    ran = cli("predict", f"~/photos/{image}", "--model=~/m", "--out=~/o.csv", "--format", "csv", "--explain=~/heat")
    assert ran.code == 0, ran.err
    assert (home / "o.csv").is_file()
    assert len(list((home / "heat").iterdir())) == 1
    monkeypatch.setenv("SIGNSCLF_MODEL", "~/m")
    for words, stdin in ((("-",), f"~/photos/{image}\n"), ((f"~/photos/{image.parent}/*.png",), "")):
        ran = cli("predict", *words, "--json", stdin=stdin)
        assert ran.code == 0, ran.err
    assert cli("data", "check", "~/photos", "--out=~/counts").code == 0
    assert (home / "counts" / "class_counts.png").is_file()
    assert "no user 'nobody-here'" in cli("predict", "~nobody-here/a.png").out
    assert "no user 'nobody-here'" in cli("predict", "a.png", "--model=~nobody-here/m").complaint
    with pytest.raises(SourceError, match="no user"):
        read_source("~nobody-here/photos")
    assert not Path("~").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="names are bytes on POSIX")
def test_libraries_get_the_utf8_that_is_on_disk(monkeypatch):
    import os

    assert native_path(Path("a/ü.png")) == "a/ü.png"
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii", "surrogateescape"))
    assert native_path(Path("a/\udcc3\udcbc.png")) == "a/ü.png"


@pytest.mark.skipif(sys.platform != "linux", reason="names may be any bytes on Linux")
def test_a_model_in_a_folder_whose_name_is_no_text(model, source, tmp_path):
    import os
    import shutil

    import signsclf

    folder = shutil.copytree(model, os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    assert signsclf.load(folder).predict(next(source.rglob("*.png"))).label
