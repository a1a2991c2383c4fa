from __future__ import annotations

import csv
import errno
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinysource import command, draw_source, environment, run_command

from signsclf import __version__
from signsclf.cli.terminal import duration
from signsclf.data import gtsrb

COMMANDS = [
    [],
    ["train"],
    ["lr-find"],
    ["compare"],
    ["evaluate"],
    ["diff"],
    ["predict"],
    ["batch"],
    ["serve"],
    ["export"],
    ["verify"],
    ["data"],
    ["cache"],
    ["batch", "plan"],
    ["batch", "run"],
    ["batch", "status"],
    ["batch", "verify"],
    ["batch", "report"],
    ["data", "check"],
    ["data", "download"],
    ["data", "render"],
]
HEAVY = "torch torchvision fastai timm pandas numpy matplotlib PIL onnxruntime scipy sklearn rich.markdown pygments"


def modules_after(code: str) -> set[str]:
    """Those of `HEAVY` that a new process has imported after running the code."""
    end = f"\nimport sys; print('\\n' + ' '.join(m for m in '{HEAVY}'.split() if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + end], capture_output=True, text=True, env=environment(), check=True
    )
    return set(done.stdout.splitlines()[-1].split())


# -- the door --------------------------------------------------------------------------------------------------------


def test_help_of_every_command_imports_nothing_heavy():
    code = f"""
from signsclf.cli.app import app
for words in {COMMANDS!r}:
    assert not app(args=[*words, "--help"], standalone_mode=False)
"""
    assert modules_after(code) == set()


def test_every_command_is_listed_above(cli):
    def listed(*words: str) -> list[list[str]]:
        lines = cli(*words, "--help").out.partition("Commands:\n")[2].splitlines()
        return [[*words, line.split()[0]] for line in lines]

    assert [[], *listed(), *listed("batch"), *listed("data")] == COMMANDS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(cli, words):
    ran = cli(*words, "--help")
    assert ran.code == 0
    assert ran.out.startswith("Usage: ")
    assert not ran.err
    assert cli(*words, "-h").out == ran.out


def test_version(cli):
    assert cli("--version").out == f"signsclf {__version__}\n"


def test_nothing_asked_for_is_told_how_to_ask(cli):
    ran = cli()
    assert "Commands:" in ran.out + ran.err


def test_the_module_is_the_console_script(tmp_path):
    ran = run_command("--version", cwd=tmp_path)
    assert (ran.code, ran.out) == (0, f"signsclf {__version__}\n")


# -- wrong use: one line, before anything heavy ----------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory, and a home without data in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense"], ["nonsense", "--help"]),
        (["train", "--nonsense"], ["--nonsense", "train --help"]),
        (["train", "nowhere"], ["nowhere", "no such", "check the path"]),
        (["train", "empty"], ["empty", "folder of images for each class"]),
        (["train", "one.png"], ["one image", "a folder, an archive (.zip"]),
        (["train", "--resume", "nowhere"], ["nowhere.partial", "start the training anew"]),
        (["train", "--resume", "nowhere", "--size", "8"], ["--resume", "--size belongs to the run", "leave it out"]),
        (["train", "source", "--resume", "nowhere"], ["--resume", "SOURCE belongs to the run", "--source"]),
        (["train", "source", "--out", "empty"], ["exists already", "--overwrite", "--out"]),
        (["train", "source", "--out", "source"], ["is not a model folder", "--out"]),
        (["train", "source", "--out", "source", "--overwrite"], ["is not a model folder", "--out"]),
        (["train", "source", "--out", "one.png/model"], ["cannot be written", "--out"]),
        (["lr-find", "nowhere"], ["nowhere", "check the path"]),
        (["lr-find", "source", "--out", "one.png/x"], ["one.png/x", "name another folder"]),
        (["evaluate", "source", "nowhere"], ["source", "not a model folder", "signsclf train"]),
        (["evaluate", "nowhere", "source"], ["nowhere", "no such model folder", "signsclf train"]),
        (["evaluate", "nowhere"], ["source", "evaluate --help"]),
        (["predict"], ["image", "predict --help"]),
        (["predict", "one.png", "--model", "nowhere"], ["nowhere", "no such model folder"]),
        (["predict", "one.png", "--top-k", "0"], ["--top-k", "predict --help"]),
        (["predict", "one.png", "--format", "xml"], ["--format", "xml", "jsonl"]),
        (["predict", "one.png", "--format", "parquet"], ["--format parquet", "--out FILE"]),
        (["export", "nowhere", "--out", "new"], ["nowhere", "no such model folder"]),
        (["export", "source", "--out", "new"], ["not a model folder"]),
        (["export", "nowhere"], ["--out", "export --help"]),
        (["verify", "source"], ["not a model folder"]),
        (["data", "check", "nowhere"], ["nowhere", "check the path"]),
        (["data", "download", "mnist", "new"], ["mnist", "gtsrb"]),
        (["data", "render"], ["DIR", "--sheet"]),
        (["data", "render", "new", "--size", "9"], ["--size", "24:96"]),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_wrong_use_is_one_line(cli, place, source, words, told):
    (place / "empty").mkdir()
    Image.new("RGB", (20, 20)).save(place / "one.png")
    shutil.copytree(source, place / "source")
    ran = cli(*words)
    assert ran.code == 2
    assert all(word.lower() in ran.complaint.lower() for word in told), ran.complaint
    assert not ran.out
    assert len([line for line in ran.err.splitlines() if not line.startswith("model: ")]) == 1
    assert sorted(path.name for path in place.iterdir()) == ["empty", "one.png", "source"]


@pytest.mark.parametrize(
    "words",
    [
        ["train", "nowhere"],
        ["train", "."],
        ["train", ".", "--lr", "fast"],
        ["train", "--resume", "nowhere"],
        ["lr-find", "nowhere"],
        ["export", "nowhere", "--out", "new"],
        ["train"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_told_before_torch_is_imported(tmp_path, words):
    code = f"""
import os, sys
os.chdir({str(tmp_path)!r})
os.environ["XDG_DATA_HOME"] = os.getcwd() + "/home"
from signsclf.cli.app import main
sys.argv = ["signsclf", *{words!r}]
try:
    main()
except SystemExit as stop:
    assert stop.code == 2, stop.code
else:
    raise AssertionError("it went on")
"""
    assert not modules_after(code) & {"torch", "fastai", "timm", "torchvision", "matplotlib", "onnxruntime"}


def test_debug_shows_the_traceback(place):
    ran = run_command("--debug", "train", "nowhere", cwd=place)
    assert ran.code == 1
    assert "Traceback" in ran.err
    assert "SourceError" in ran.err.splitlines()[-1]
    assert "Traceback" in run_command("train", "nowhere", "--debug", cwd=place).err


# -- GTSRB without a SOURCE ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["train"], ["lr-find"]], ids=" ".join)
def test_gtsrb_not_there_names_three_ways_on(cli, place, words):
    ran = cli(*words)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    for way in ("signsclf data download gtsrb", "SOURCE", "signsclf train synthetic", "home"):
        assert way in ran.complaint


def test_where_gtsrb_is_looked_for(cli, place, monkeypatch):
    monkeypatch.setenv("SIGNSCLF_DATA_DIR", str(place / "from the environment"))
    assert "from the environment" in cli("train").complaint
    assert "from the flag" in cli("train", "--data-dir", place / "from the flag").complaint


def test_the_data_folder_is_the_source(cli, place, source):
    ran = cli("train", "--data-dir", source, "--arch", "no-such-net")
    assert "images: 120" in ran.err
    assert "no-such-net" in ran.complaint


def test_a_broken_download_is_not_taken_for_the_benchmark(cli, place):
    (place / "data").mkdir()
    (place / "data" / "GTSRB_Final_Training_Images.zip.part").write_bytes(b"half")
    assert "signsclf data download" in cli("train", "--data-dir", place / "data").complaint


def test_yes_offline_is_one_line(cli, place, monkeypatch):
    monkeypatch.setattr(gtsrb, "BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    ran = cli("train", "--yes")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert "127.0.0.1" in ran.complaint
    assert "signsclf train synthetic" in ran.complaint


# -- data ------------------------------------------------------------------------------------------------------------


def test_data_check(cli, source, tmp_path):
    ran = cli("data", "check", source, "--out", tmp_path / "counts")
    assert ran.code == 0
    assert "120 images: 0 unreadable" in ran.out
    assert "layout: class folders" in ran.err
    assert sorted(path.name for path in (tmp_path / "counts").iterdir()) == ["class_counts.csv", "class_counts.png"]
    bad = shutil.copytree(source, tmp_path / "bad")
    (bad / "red bar" / "00000_00000.png").write_bytes(b"")
    ran = cli("data", "check", bad, "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["unreadable"][0]["path"] == "red bar/00000_00000.png"


def test_data_check_shows_near_duplicates(cli, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        patches = Image.fromarray(np.random.default_rng(ord(label)).integers(0, 256, (6, 6, 3), dtype=np.uint8))
        for name, side in (("one", 64), ("smaller", 40)):
            patches.resize((side, side), Image.Resampling.BICUBIC).save(tmp_path / "set" / label / f"{name}.png")
    sheet = tmp_path / "near.png"
    ran = cli("data", "check", tmp_path / "set", "--sheet", sheet)
    assert ran.code == 0
    assert "near-duplicates (within class): a/one.png, a/smaller.png" in ran.out
    assert "2 groups of near-duplicates (4 images)" in ran.out
    assert f"written: {sheet}" in ran.err
    Image.open(sheet).verify()
    assert cli("data", "check", tmp_path / "set", "--sheet", tmp_path / "near.jpg").code == 2


def test_data_render(cli, tmp_path):
    sheet = tmp_path / "signs" / "sheet.png"  # of the program, so no image of the source
    ran = cli("data", "render", tmp_path / "signs", "--per-class", 1, "--sheet", sheet)
    assert ran.code == 0
    assert ran.out.split() == [str(tmp_path / "signs"), str(sheet)]
    assert len(list((tmp_path / "signs").rglob("*_*.png"))) == 43
    Image.open(sheet).verify()
    assert '"n": 43' in cli("data", "check", tmp_path / "signs", "--json").out


def test_data_draw_is_the_old_name_of_data_render(cli, tmp_path):
    ran = cli("data", "draw", tmp_path / "signs", "--per-class", 1, "--size", "16:16")
    assert ran.code == 0 and ran.out.strip() == str(tmp_path / "signs")
    assert [line for line in ran.err.splitlines() if "data render" in line] == [
        "note: `signsclf data draw` is now called `signsclf data render`; the next version knows the new name only"
    ]
    assert max(Image.open(tmp_path / "signs" / "00014" / "00000_00000.png").size) == 16
    assert "draw" not in cli("data", "--help").out


# -- predict ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_source(source, monkeypatch):
    monkeypatch.chdir(source)
    return source


def paths_of(ran) -> list[str]:
    return [row["path"] for row in json.loads(ran.out)]


def test_predict_tells_the_model_and_keeps_to_its_streams(cli, at_source, model):
    ran = cli("predict", "red bar/00000_00000.png", "--model", model)
    assert ran.code == 0
    assert ran.out.splitlines()[0].startswith("red bar/00000_00000.png")
    assert ran.out.count("%") == 3
    assert ran.err == f"model: {model} (--model)\n"


def test_predict_finds_its_model(cli, source, model, tmp_path, monkeypatch):
    image = source / "red bar" / "00000_00000.png"
    monkeypatch.setenv("SIGNSCLF_MODEL", str(model))
    ran = cli("predict", image, "--json")
    assert "SIGNSCLF_MODEL" in ran.err
    assert json.loads(ran.out)[0]["label"] == "red bar"
    monkeypatch.delenv("SIGNSCLF_MODEL")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "models" / "default")
    assert "models/default" in cli("predict", image, "--json").err


def test_predict_takes_folders_patterns_archives_and_lists(cli, at_source, model, tmp_path):
    folder = sorted(str(path) for path in Path("red bar").iterdir())
    everything = sorted(str(path) for path in Path().rglob("*.png"))
    assert paths_of(cli("predict", "red bar", "--model", model, "--json")) == folder
    assert paths_of(cli("predict", ".", "-r", "--model", model, "--json")) == everything
    assert paths_of(cli("predict", "red bar/0000[0-7]_*.png", "--model", model, "--json")) == folder
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in folder[:3]:
            archive.write(path)
    found = paths_of(cli("predict", tmp_path / "a.zip", "-r", "--model", model, "--json"))
    assert found == [f"{tmp_path}/a.zip/{path}" for path in folder[:3]]
    for without, kind in ((tmp_path / "a.zip", "archive"), (".", "folder")):
        (row,) = json.loads(cli("predict", without, "--model", model, "--json").out)
        assert (
            f"no images in this {kind} itself, but in folders further down; --recursive takes them too" in row["error"]
        )
    backwards = folder[::-1]
    ran = cli("predict", "-", "--model", model, "--json", stdin="\n".join(backwards) + "\n")
    assert paths_of(ran) == backwards


def test_the_limit_of_pixels_is_an_option_and_a_variable(cli, model, tmp_path, monkeypatch):
    for label in ("a", "b"):
        (tmp_path / "s" / label).mkdir(parents=True)
        Image.new("RGB", (20, 20), "red").save(tmp_path / "s" / label / "1.png")
    photo = tmp_path / "s" / "a" / "1.png"
    monkeypatch.setenv("SIGNSCLF_MAX_PIXELS", "399")
    ran = cli("predict", photo, "--model", model, "--json")
    assert ran.code == 1
    assert "too many pixels (20×20, at most 399); --max-pixels or $SIGNSCLF_MAX_PIXELS raises" in ran.out
    assert "2 unreadable" in cli("data", "check", tmp_path / "s").out
    assert "0 unreadable" in cli("data", "check", tmp_path / "s", "--max-pixels", "400").out
    monkeypatch.setenv("SIGNSCLF_MAX_PIXELS", "399")
    assert cli("predict", photo, "--model", model, "--max-pixels", "1_000").code == 0
    monkeypatch.setenv("SIGNSCLF_MAX_PIXELS", "many")
    ran = cli("predict", photo, "--model", model)
    assert ran.code == 2
    assert "SIGNSCLF_MAX_PIXELS" in ran.err


def test_a_bad_image_is_a_row_and_exit_code_1(cli, at_source, model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    good = "red bar/00000_00000.png"
    ran = cli("predict", good, tmp_path / "bad.png", "nowhere.png", good, "--model", model, "--json")
    assert ran.code == 1
    rows = json.loads(ran.out)
    assert [row["error"] is None for row in rows] == [True, False, False, True]
    assert rows[1]["label"] is None
    assert "bad.png" in rows[1]["error"]
    assert "2 images could not be read" in ran.err
    assert "Traceback" not in ran.err


def test_predict_out_is_whole_or_not_there(cli, at_source, model, tmp_path, monkeypatch):
    out = tmp_path / "found.csv"
    out.write_text("old")
    assert "--overwrite" in cli("predict", "red bar", "--model", model, "--format", "csv", "--out", out).complaint
    assert out.read_text() == "old"
    ran = cli("predict", "red bar", "--model", model, "--format", "csv", "--out", out, "--overwrite")
    assert (ran.code, ran.out) == (0, "")
    assert out.read_text().count("\n") == 41
    with monkeypatch.context() as broken:
        broken.setattr("signsclf.inference.writers.json.dumps", lambda *_, **__: 1 / 0)
        assert cli("predict", "red bar", "--model", model, "--format", "jsonl", "--out", out).code == 1
    assert out.read_text().count("\n") == 41
    assert [path.name for path in tmp_path.iterdir()] == ["found.csv"]
    ran = cli("predict", "red bar", "--model", model, "--out", tmp_path / "no folder" / "x.csv")
    assert ran.code == 2
    assert "no folder" in ran.complaint
    assert "name another place" in ran.complaint
    assert "a folder; name a file" in cli("predict", "red bar", "--model", model, "--out", tmp_path).complaint


def test_explain_writes_a_picture_for_each_image(cli, at_source, model, tmp_path):
    images = ["red bar/00000_00000.png", "blue disc/00000_00000.png"]
    ran = cli("predict", *images, "--model", model, "--explain", tmp_path / "maps")
    assert ran.code == 0
    pictures = sorted((tmp_path / "maps").iterdir())
    assert len(pictures) == 2
    for picture in pictures:
        with Image.open(picture) as image:
            image.verify()


def test_top_k(cli, at_source, model):
    for k in (1, 2, 9):
        row = json.loads(cli("predict", "red bar/00000_00000.png", "--model", model, "--json", "--top-k", k).out)[0]
        assert len(row["top_k"]) == min(k, 3)


def test_cuda_without_the_extra_runs_on_the_processor_and_says_so(cli, at_source, model):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    ran = cli("predict", "red bar/00000_00000.png", "--model", model, "--device", "cuda")
    assert ran.code == 0
    assert "signsclf[gpu]" in ran.err


def test_predict_imports_neither_torch_nor_pandas(source, model, tmp_path):
    out = tmp_path / "answers.csv"
    code = f"""
import sys
from signsclf.cli.app import main
sys.argv = ["signsclf", "predict", {str(source / "red bar")!r}, "--model", {str(model)!r}, "--out", {str(out)!r}]
try:
    main()
except SystemExit as stop:
    assert stop.code == 0, stop.code
"""
    imported = modules_after(code)
    assert "onnxruntime" in imported
    assert not imported & {"torch", "fastai", "timm", "torchvision", "pandas", "matplotlib"}
    assert len(out.read_text("utf-8").splitlines()) == 1 + len(list((source / "red bar").iterdir()))


# -- pipes and terminals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["predict", "-r", "."], ["verify"], ["data", "check", "."]], ids=" ".join)
def test_a_pipe_that_is_closed_early_is_no_failure(source, model, words):
    words = [*words, "--model", model] if words[0] == "predict" else [*words, model] if words == ["verify"] else words
    # Nobody reads from the start: whatever is written first finds the pipe closed.
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command(*words), cwd=source, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment(), check=False
    )
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("predict", ".", "-r", "--model"), ("--help",)])
def test_a_full_disk_under_standard_output_is_one_line(words, source, model):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(*words, *([model] if words[0] == "predict" else [])),
            cwd=source,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_a_download_is_asked_for(tmp_path):
    import pty

    child, terminal = pty.fork()
    if child == 0:
        arguments = command("train", "--data-dir", tmp_path / "none")
        os.execve(arguments[0], arguments, environment())
    told = b""
    asked = False
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        told += piece
        if b"[y/N]" in told and not asked:
            asked = True
            os.write(terminal, b"n\n")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    assert code == 2
    assert b"366 MB" in told
    assert b"signsclf train synthetic" in told
    assert b"Traceback" not in told


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (61, "1 min 1 s"), (7_500, "2 h 5 min")])
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_out_of_the_way_names(cli, model, tmp_path):
    folder = draw_source(tmp_path / "Ünï cödé 文", tracks=1, frames=2)
    ran = cli("predict", folder, "-r", "--model", model, "--json")
    assert ran.code == 0
    assert len(json.loads(ran.out)) == 6
    assert "Ünï cödé 文" in ran.out


@pytest.mark.skipif(sys.platform == "win32", reason="waits for a pipe as on POSIX")
@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_a_list_that_comes_slowly_is_answered_as_it_comes(source, model, form):
    images = [str(path) for path in sorted(source.rglob("*.png"))[:2]]
    process = subprocess.Popen(
        command("predict", "-", "--model", model, "--format", form),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    with process:
        for image in images:
            process.stdin.write(f"{image}\n".encode())
            process.stdin.flush()
            seen = b""
            while image.encode() not in seen:
                assert select.select([process.stdout], [], [], 30)[0], "no answer before the next name"
                seen += os.read(process.stdout.fileno(), 65536)
        process.stdin.close()
        assert process.wait(30) == 0


def test_lists_of_any_encoding(cli, at_source, model):
    names = [path.relative_to(at_source).as_posix() for path in sorted(at_source.rglob("*.png"))[:3]]
    text = "\r\n".join(names) + "\r\n"
    for written in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), "\0".join(names).encode()):
        ran = cli("predict", "-", "--model", model, "--json", stdin=written)
        assert ran.code == 0, ran.out
        assert [row["path"] for row in json.loads(ran.out)] == names


def test_control_characters_reach_no_terminal_and_stay_in_json_and_csv(cli, source, model, tmp_path):
    odd = tmp_path / "stop\x1b[31m" / "a\x1b]0;pwned\x07.png"
    odd.parent.mkdir()
    shutil.copy(next(source.rglob("*.png")), odd)
    (odd.parent / "b\x1b[2J\u202e.png").write_bytes(b"no image")
    (tmp_path / "yield\r\x1b[2K").mkdir()
    shutil.copy(next(source.rglob("*.png")), tmp_path / "yield\r\x1b[2K" / "c.png")
    for ran in (
        cli("predict", "-r", tmp_path, "--model", model),
        cli("data", "check", tmp_path),
        cli("predict", odd.parent / "gone\x1bc.png", "--model", model),
        cli("data", "check", tmp_path / "gone\x1bc"),
        cli("predict", "a.png", "--model", "m\x1b]0;x"),
        cli("predict", "a.png", "--no\x1b[2Jsuch"),
    ):
        said = ran.out + ran.err
        assert not any((ord(letter) < 32 and letter != "\n") or letter in "\x7f\u202e" for letter in said), said
    rows = json.loads(cli("predict", "-r", tmp_path, "--model", model, "--json").out)
    assert str(odd) in [row["path"] for row in rows]
    rows = list(csv.DictReader(io.StringIO(cli("predict", odd, "--model", model, "--format", "csv").out, newline="")))
    assert rows[0]["path"] == str(odd)
    refused = cli("data", "check", tmp_path, "--json")
    assert refused.complaint.endswith("rename the folder")
    for folder, name in (("stop\x1b[31m", "stop"), ("yield\r\x1b[2K", "yield")):
        (tmp_path / folder).rename(tmp_path / name)
    checked = json.loads(cli("data", "check", tmp_path, "--json").out)
    assert "\x1b" in json.dumps(checked, ensure_ascii=False).encode().decode("unicode_escape")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_what_programs_read_is_utf8_whatever_the_locale(source, model, tmp_path, encoding):
    image = tmp_path / "stop\u00e9\U0001f600.png"
    shutil.copy(next(source.rglob("*.png")), image)
    for form, read in (("json", json.loads), ("jsonl", json.loads), ("csv", lambda text: text)):
        done = subprocess.run(
            command("predict", image, "--model", model, "--format", form),
            capture_output=True,
            env=environment(PYTHONIOENCODING=encoding),
            check=True,
        )
        assert image.name in str(read(done.stdout.decode("utf-8")))


@pytest.mark.skipif(sys.platform != "linux", reason="locales and names as on Linux")
@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_names_in_utf8_work_in_a_locale_that_is_not(source, model, tmp_path, locale):
    folder = tmp_path / "Verkehrsschild ü"
    folder.mkdir()
    shutil.copy(next(source.rglob("*.png")), folder / "日本é.png")
    model = shutil.copytree(model, tmp_path / "Straße")
    listed = os.fsencode(folder) + "/日本é.png\n".encode()
    for words, stdin in (((os.fsencode(folder),), b""), (("-",), listed), (("-",), b"\xef\xbb\xbf" + listed)):
        done = subprocess.run(
            [*command("predict"), *words, "--model", model, "--json"],
            input=stdin,
            capture_output=True,
            env=environment(**locale),
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert json.loads(done.stdout.decode("utf-8"))[0]["path"] == str(folder / "日本é.png")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="locales and names as on Linux")
def test_training_in_a_locale_that_is_not_utf8(tmp_path):
    source = tmp_path / "Straße" / "ü"
    for i, name in enumerate(("停止", "قف")):
        (source / name).mkdir(parents=True)
        for k in range(6):
            Image.new("RGB", (20, 20), (200 * i, 40 * k, 9 * k)).save(source / name / f"{k}.png")
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    model = tmp_path / "Straße" / "m"
    words = ["train", source, "--out", model, "--arch", "linear-regression", "--size", "20", "--cache", "off"]
    done = subprocess.run(command(*words), env=environment(**locale), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    config = json.loads((model / "config.json").read_text("utf-8"))
    assert set(config["label_names"]) == {"停止", "قف"}
    checked = subprocess.run(
        command("data", "check", source), env=environment(**locale), capture_output=True, check=True
    ).stdout.decode("ascii")
    assert "####" in checked and "\\u2588" not in checked


def test_a_folder_of_pictures_that_are_not_read_says_so(cli, model, tmp_path, source):
    phone = tmp_path / "phone"
    phone.mkdir()
    for i in range(3):
        (phone / f"{i}.svg").write_bytes(b"<svg")
    ran = cli("predict", phone, "--model", model)
    assert ran.code == 1
    assert "3 .svg" in ran.out and "--recursive" not in ran.out
    shutil.copy(next(source.rglob("*.png")), phone)
    ran = cli("predict", phone, "--model", model)
    assert ran.code == 0
    assert "left out: 3 .svg" in ran.err


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (MemoryError(), "try a smaller --batch-size or --size"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA: tried to allocate 2 GiB"), "try a smaller --batch-size"),
        (RuntimeError("CUDA error: out of memory"), "try a smaller --batch-size"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
            "try a smaller --batch-size",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "try a smaller --batch-size"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "try a smaller --batch-size"),
    ],
)
def test_memory_that_runs_out_is_a_line_about_what_takes_less(cli, source, monkeypatch, tmp_path, failure, told):
    from signsclf.runs import train

    def failing(*_, **__):
        raise failure

    monkeypatch.setattr(train, "train", failing)
    ran = cli("train", source, "--out", tmp_path / "m")
    assert ran.code == 1
    assert told in ran.complaint
    assert "out of memory" in ran.complaint


def test_an_unexpected_error_asks_for_its_traceback(cli, source, monkeypatch, tmp_path):
    from signsclf.runs import train

    monkeypatch.setattr(train, "train", lambda *_, **__: {}["odd"])
    ran = cli("train", source, "--out", tmp_path / "m")
    assert ran.code == 1
    assert "unexpected KeyError: 'odd'; run again with --debug for its traceback, and report it" in ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes no working directory")
def test_a_working_directory_that_is_gone_is_told_as_such(tmp_path, source, monkeypatch, cli):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ran = cli("predict", source, "--model", "m")
    monkeypatch.chdir(tmp_path)
    assert ran.complaint == "signsclf: the working directory exists no more; change to another one"
