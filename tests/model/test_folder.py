from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinymodel import CLASSES, WEIGHT, config, write_folder, write_safetensors

from signsclf.errors import ModelError
from signsclf.model import folder as modelfolder
from signsclf.model.folder import (
    Config,
    check_classes,
    publish,
    read_config,
    read_tensor,
    verify_sums,
    write_config,
    write_sums,
)


def fails(pattern: str):
    """A ModelError of one line that matches."""
    return pytest.raises(ModelError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def changed(**changes: object) -> str:
    """The text of a good config.json with some of what is ours changed."""
    top = json.loads(config().to_json())
    top["signsclf"].update(changes)
    return json.dumps(top)


class TestConfig:
    def test_survives_the_way_to_disk_and_back(self, tmp_path: Path):
        original = config(
            classes=("Stop", "Höchstgeschwindigkeit 30", "停止"),
            mean=(0.1, 1 / 3, 0.7),
            reject_threshold=None,
            licence="weights: ImageNet",
            is_gtsrb=True,
            crop="roi",
            fixed_input_size=True,
            recipe={"sizes": (6, 8), "lr": None},
        )
        write_config(tmp_path, original)
        assert read_config(tmp_path) == original
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]

    def test_is_laid_out_as_timm_reads_it(self):
        top = json.loads(config().to_json())
        assert top["architecture"] == "tiny"
        assert top["num_classes"] == 3
        assert top["label_names"] == list(CLASSES)
        assert "model_args" not in top
        cfg = top["pretrained_cfg"]
        assert cfg["input_size"] == [3, 6, 8]
        assert (cfg["interpolation"], cfg["crop_pct"], cfg["crop_mode"]) == ("bilinear", 1.0, "squash")
        assert cfg["classifier"] == "fc"
        assert set(top) == {"architecture", "num_classes", "label_names", "pretrained_cfg", "signsclf"}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("architecture", "hf-hub:someone/model"),
            ("architecture", "../elsewhere"),
            ("architecture", ""),
            ("classes", ()),
            ("classes", ("a", "a")),
            ("classes", ("a", " ")),
            ("classes", ("a", "b\nc")),
            ("classes", ("a", "\udcff")),
            ("classes", "ab"),
            ("input_size", (0, 8)),
            ("input_size", (6, 4097)),
            ("input_size", (6.0, 8.0)),
            ("mean", (0.0, 0.0)),
            ("mean", (0.0, 0.0, float("nan"))),
            ("std", (1.0, 1.0, 0.0)),
            ("temperature", 0.0),
            ("temperature", float("inf")),
            ("temperature", 10**400),
            ("reject_threshold", 1.5),
            ("recipe", {"lr": float("nan")}),
            ("recipe", {"path": Path("x")}),
            ("recipe", []),
            ("figures", {"valid": {"accuracy": 0.9}}),
            ("figures", {"valid": 0.9}),
            ("is_gtsrb", 1),
            ("crop", "centre"),
            ("readers", ("keras",)),
            ("licence", 3),
            ("versions", {"torch": 2}),
        ],
    )
    def test_refuses_what_makes_no_sense(self, name: str, value: object):
        with fails(name):
            config(**{name: value})

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "not valid JSON"),
            ("{", "not valid JSON"),
            ("[]", "signsclf"),
            ('{"signsclf": 3}', "signsclf"),
            ("[" * 100_000, "nested too deeply|not valid JSON"),
            ('{"a": ' * 5_000 + "1" + "}" * 5_000, "nested too deeply"),
            ('{"a": 1, "a": 2}', "twice"),
            ("9" * 5_000, "not valid JSON|signsclf"),
            (changed(format_version=2), r'format version 2\.0 is newer.*1\.x.*pip install "signsclf>=0\.1\.0"'),
            (changed(format_version="2.3", versions={"signsclf": "4.5"}), r'2\.3 is newer.*"signsclf>=4\.5"'),
            (changed(format_version="9.9", versions={"signsclf": "1; rm -rf /"}), "is newer.*; upgrade signsclf"),
            (changed(format_version="9.9", versions=3), "is newer.*; upgrade signsclf"),
            (changed(format_version="0.9"), r"0\.9 is older"),
            (changed(format_version="1"), "format_version is '1'.*MAJOR.MINOR"),
            (changed(format_version="1.1\n"), "format_version is"),
            (changed(format_version=1.1), "format_version is 1.1"),
            (changed(format_version=True), "format_version is True"),
            (changed(format_version="9" * 9999 + ".0"), "format_version is"),
            (changed(unknown=1), "unknown 'unknown'"),
            (changed(temperature=float("nan")), "NaN"),
            (changed(temperature=1e999), "Infinity"),
            (changed(temperature="x").replace('"x"', "1e999"), "temperature"),
        ],
    )
    def test_text_that_is_not_in_order_ends_in_one_line(self, text: str, why: str):
        with fails(why):
            Config.from_json(text)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("crop_mode", "center"),
            ("crop_pct", 0.9),
            ("hf_hub_id", "a/b"),
            ("file", "/etc/passwd"),
            ("num_classes", 4),
        ],
    )
    def test_preprocessing_or_files_of_another_kind_are_refused(self, key: str, value: object):
        top = json.loads(config().to_json())
        top["pretrained_cfg"][key] = value
        with fails(key):
            Config.from_json(json.dumps(top))

    def test_what_a_newer_minor_version_added_is_ignored(self):
        text = changed(format_version="1.999", invented=1, more={"a": 2}, readers=["onnxruntime", "invented"])
        assert Config.from_json(text) == config(readers=("onnxruntime",))
        with fails("unknown 'invented'"):
            Config.from_json(changed(invented=1))
        top = json.loads(text)
        top["pretrained_cfg"]["crop_pct"] = 0.5  # another preprocessing is another major version
        with fails("crop_pct"):
            Config.from_json(json.dumps(top))

    def test_what_an_older_minor_version_lacks_takes_its_default(self):
        top = json.loads(config().to_json())
        assert top["signsclf"]["format_version"] == modelfolder.FORMAT_VERSION == "1.2"
        del top["signsclf"]["initial_weights"]
        with fails("lacks 'initial_weights'"):
            Config.from_json(json.dumps(top))
        for old in (1, "1.0"):
            top["signsclf"]["format_version"] = old
            assert Config.from_json(json.dumps(top)) == config()
        del top["signsclf"]["recipe"]
        with fails("lacks 'recipe'"):
            Config.from_json(json.dumps(top))

    @pytest.mark.parametrize("key", ["label_names", "pretrained_cfg", "num_classes", "architecture"])
    def test_a_missing_key_is_named(self, key: str):
        top = json.loads(config().to_json())
        del top[key]
        with fails(key):
            Config.from_json(json.dumps(top))

    def test_a_hundred_thousand_classes_are_quick_and_one_more_refused(self):
        many = tuple(map(str, range(100_000)))
        assert Config.from_json(config(classes=many).to_json()).classes == many
        with fails("100,001"):
            check_classes((*many, "more"))
        with fails("'99999'"):
            check_classes((*many[1:], "99999"))

    def test_too_large_a_file_is_refused_before_it_is_parsed(self, tmp_path: Path):
        with (tmp_path / "config.json").open("wb") as file:
            file.truncate(modelfolder.MAX_BYTES + 1)
        with fails("larger than"):
            read_config(tmp_path)

    def test_missing_folder_and_missing_file_are_told_apart(self, tmp_path: Path):
        with fails("no such model folder"):
            read_config(tmp_path / "none")
        with fails("not a model folder, it has no config.json"):
            read_config(tmp_path)
        (tmp_path / "m.partial").mkdir()
        with fails("--resume"):
            read_config(tmp_path / "m")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def _places(value: object, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in _places(inner, (*path, key)))]


GOOD = json.loads(config().to_json())


class TestFuzzedConfig:
    @settings(max_examples=300, deadline=2000)
    @given(st.sampled_from([place for place in _places(GOOD) if place]), anything, st.booleans())
    def test_any_value_anywhere_is_read_or_refused(self, place: tuple, value: object, delete: bool):
        top = json.loads(json.dumps(GOOD))
        inner = top
        for key in place[:-1]:
            inner = inner[key]
        if delete:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        self.check(json.dumps(top))

    @settings(max_examples=200, deadline=2000)
    @given(st.integers(0, len(json.dumps(GOOD)) - 1), st.integers(0, 20), st.text(max_size=5))
    def test_text_cut_and_patched_anywhere_is_read_or_refused(self, start: int, length: int, patch: str):
        text = json.dumps(GOOD)
        self.check(text[:start] + patch + text[start + length :])
        self.check(text[:start])

    @staticmethod
    def check(text: str) -> None:
        try:
            result = Config.from_json(text)
        except ModelError as error:
            assert len(str(error).splitlines()) == 1, str(error)
            assert str(error).isprintable()
        else:
            assert Config.from_json(result.to_json()) == result


class TestSums:
    def test_are_those_of_coreutils(self, tmp_path: Path):
        folder = write_folder(tmp_path / "m")
        (folder / "run" / "plots").mkdir(parents=True)
        (folder / "run" / "plots" / "ä b.txt").write_text("x")
        (folder / "other").mkdir()
        (folder / "other" / "y.txt").write_text("y")
        write_sums(folder)
        listed = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines()]
        assert listed == ["README.md", "config.json", "model.onnx", "model.safetensors", "run/plots/ä b.txt"]
        verify_sums(folder)
        if shutil.which("sha256sum"):
            subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True)

    @pytest.mark.parametrize("name", ["config.json", "model.onnx", "model.safetensors", "README.md"])
    def test_tampered_truncated_and_missing_files_are_named(self, tmp_path: Path, name: str):
        folder = write_folder(tmp_path / "m")
        path, good = folder / name, (folder / name).read_bytes()
        for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[: len(good) // 2], b""):
            path.write_bytes(bad)
            with fails(f"{name}: changed or truncated"):
                verify_sums(folder)
        path.unlink()
        with fails(f"{name}: listed in SHA256SUMS but missing"):
            verify_sums(folder)

    def test_only_the_files_asked_for_are_looked_at(self, tmp_path: Path):
        folder = write_folder(tmp_path / "m")
        (folder / "model.onnx").write_bytes(b"")
        verify_sums(folder, ["config.json"])

    def test_a_pickle_that_was_slipped_in_is_refused_a_note_is_not(self, tmp_path: Path):
        folder = write_folder(tmp_path / "m")
        (folder / "notes.txt").write_text("mine")
        verify_sums(folder)
        (folder / "learner.pkl").write_bytes(b"cos\nsystem\n")
        with fails("learner.pkl: not listed"):
            verify_sums(folder)

    def test_a_list_that_leaves_out_the_network_is_refused(self, tmp_path: Path):
        folder = write_folder(tmp_path / "m")
        (folder / "model.onnx").unlink()
        write_sums(folder)
        with fails("model.onnx: not listed"):
            verify_sums(folder)

    @pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "run/../../secret", "C:/x", "a\\..\\b"])
    def test_names_that_lead_outside_are_refused(self, tmp_path: Path, name: str):
        folder = write_folder(tmp_path / "m")
        (tmp_path / "secret").write_text("x")
        with (folder / "SHA256SUMS").open("a") as file:
            file.write(f"{'0' * 64}  {name}\n")
        with fails("leads outside"):
            verify_sums(folder)

    @pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights on Windows")
    def test_files_may_be_links_into_a_folder_of_blobs(self, tmp_path: Path):
        folder, blobs = write_folder(tmp_path / "m"), tmp_path / "blobs"
        (folder / "run").mkdir()
        (folder / "run" / "history.csv").write_text("x")
        write_sums(folder)
        good = (folder / "SHA256SUMS").read_bytes()
        blobs.mkdir()
        for number, path in enumerate([path for path in folder.rglob("*") if path.is_file()]):
            path.rename(blobs / str(number))
            path.symlink_to(blobs / str(number))
        verify_sums(folder)
        write_sums(folder)
        assert (folder / "SHA256SUMS").read_bytes() == good
        (folder / "config.json").resolve().write_text("{}")
        with fails("config.json: changed"):
            verify_sums(folder)
        (tmp_path / "link").symlink_to(write_folder(tmp_path / "real"))
        verify_sums(tmp_path / "link")

    def test_line_ends_that_git_changed_are_named(self, tmp_path: Path):
        folder = write_folder(tmp_path / "m")
        for name in ("SHA256SUMS", "config.json"):
            path = folder / name
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        with fails(r"config.json: differs from SHA256SUMS in its line endings alone.*-text.*\.gitattributes"):
            verify_sums(folder)
        verify_sums(folder, ["model.onnx"])  # the list itself may have any line ends
        path.write_bytes(path.read_bytes().replace(b"tiny", b"tony"))
        with fails("config.json: changed or truncated"):
            verify_sums(folder)

    def test_names_with_any_character_but_those_of_control_are_listed(self, tmp_path: Path):
        folder = write_folder(tmp_path / "m")
        (folder / "run").mkdir()
        (folder / "run" / "a\u2028b\x85c.txt").write_text("x")
        write_sums(folder)
        verify_sums(folder)

    @pytest.mark.parametrize("text", ["rubbish\n", "0" * 64 + "  a\n" + "0" * 64 + "  a\n", "\udcff"])
    def test_a_damaged_list_is_refused(self, tmp_path: Path, text: str):
        folder = write_folder(tmp_path / "m")
        (folder / "SHA256SUMS").write_bytes(text.encode("utf-8", "surrogateescape"))
        with fails("SHA256SUMS"):
            verify_sums(folder)
        (folder / "SHA256SUMS").unlink()
        with fails("has no SHA256SUMS"):
            verify_sums(folder)


class TestPublish:
    def test_moves_the_whole_folder(self, tmp_path: Path):
        publish(write_folder(tmp_path / "m.partial"), tmp_path / "m")
        verify_sums(tmp_path / "m")
        assert not (tmp_path / "m.partial").exists()

    def test_says_how_to_go_on_when_something_is_there(self, tmp_path: Path):
        old, new = write_folder(tmp_path / "m"), write_folder(tmp_path / "m.partial")
        with fails("--overwrite.*--out"):
            publish(new, old)
        assert new.is_dir()

    def test_overwrite_replaces_and_leaves_nothing_behind(self, tmp_path: Path):
        old = write_folder(tmp_path / "m", fingerprint="old")
        publish(write_folder(tmp_path / "m.partial", fingerprint="new"), old, overwrite=True)
        assert read_config(old).fingerprint == "new"
        assert [path.name for path in tmp_path.iterdir()] == ["m"]

    def test_a_backup_that_someone_made_stays(self, tmp_path: Path):
        write_folder(tmp_path / "m", fingerprint="old")
        write_folder(tmp_path / "m.old", fingerprint="kept")
        publish(write_folder(tmp_path / "m.partial", fingerprint="new"), tmp_path / "m", overwrite=True)
        assert read_config(tmp_path / "m.old").fingerprint == "kept"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.old"]

    @pytest.mark.parametrize("name", ["NOTES.txt", ".git/HEAD", "samples/cat/0.png", "run/mine.csv", "README.md"])
    def test_what_it_did_not_write_keeps_the_old_folder(self, tmp_path: Path, name):
        old = write_folder(tmp_path / "m", fingerprint="old")
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text("mine")
        shown = name.split("/")[0] + "/" if name[0] in ".sr" else name
        with fails(f"{re.escape(shown)}.*move that away.*--out.*in .*m.partial"):
            publish(write_folder(tmp_path / "m.partial"), old, overwrite=True)
        assert (old / name).read_text() == "mine"
        assert read_config(old).fingerprint == "old"
        assert read_config(tmp_path / "m.partial")

    def test_never_deletes_what_is_no_model_folder(self, tmp_path: Path):
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "letter.txt").write_text("dear")
        with fails("not a model folder"):
            publish(write_folder(tmp_path / "m.partial"), tmp_path / "home", overwrite=True)
        assert (tmp_path / "home" / "letter.txt").read_text() == "dear"

    def test_the_old_one_comes_back_when_the_new_one_cannot_be_moved(self, tmp_path: Path):
        old = write_folder(tmp_path / "m", fingerprint="old")
        with fails("cannot be put in place"):
            publish(tmp_path / "none.partial", old, overwrite=True)
        assert read_config(old).fingerprint == "old"

    @pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights on Windows")
    def test_a_link_is_replaced_and_its_target_kept(self, tmp_path: Path):
        target = write_folder(tmp_path / "target", fingerprint="old")
        (tmp_path / "m").symlink_to(target)
        publish(write_folder(tmp_path / "m.partial", fingerprint="new"), tmp_path / "m", overwrite=True)
        assert read_config(tmp_path / "m").fingerprint == "new"
        assert read_config(target).fingerprint == "old"


class TestReadTensor:
    def test_reads_both_kinds_of_floats(self, tmp_path: Path):
        path = tmp_path / "w.safetensors"
        half = np.arange(4, dtype=np.float16).reshape(2, 2)
        write_safetensors(path, {"skip": np.ones(5, np.float32), "fc.weight": WEIGHT, "half": half})
        np.testing.assert_array_equal(read_tensor(path, "fc.weight"), WEIGHT)
        assert read_tensor(path, "half").dtype == np.float32
        np.testing.assert_array_equal(read_tensor(path, "half"), half)

    def test_reads_what_the_safetensors_package_writes(self, tmp_path: Path):
        safetensors = pytest.importorskip("safetensors.numpy")
        safetensors.save_file({"a": WEIGHT, "b": WEIGHT[:1]}, tmp_path / "w", metadata={"format": "pt"})
        np.testing.assert_array_equal(read_tensor(tmp_path / "w", "b"), WEIGHT[:1])

    def test_absent_and_other_kinds_are_named(self, tmp_path: Path):
        path = tmp_path / "w.safetensors"
        write_safetensors(path, {"ints": np.arange(3)})
        with fails("no tensor 'fc.weight'"):
            read_tensor(path, "fc.weight")
        with fails("not of float32"):
            read_tensor(path, "ints")
        with fails("cannot be read"):
            read_tensor(tmp_path / "none", "x")

    def test_every_truncation_is_refused(self, tmp_path: Path):
        path = tmp_path / "w.safetensors"
        write_safetensors(path, {"fc.weight": WEIGHT})
        data = path.read_bytes()
        for length in range(len(data)):
            path.write_bytes(data[:length])
            with fails(""):
                read_tensor(path, "fc.weight")

    @pytest.mark.parametrize(
        "entry",
        [
            3,
            {"dtype": "F32", "shape": [3, 3], "data_offsets": [0, 35]},
            {"dtype": "F32", "shape": [3, 3], "data_offsets": [-36, 0]},
            {"dtype": "F32", "shape": [3, 3], "data_offsets": [36, 72]},
            {"dtype": "F32", "shape": [3, 3], "data_offsets": [0]},
            {"dtype": "F32", "shape": [-3, -3], "data_offsets": [0, 36]},
            {"dtype": "F32", "shape": [10**30, 3], "data_offsets": [0, 36]},
            {"dtype": "F32", "shape": [True, 9], "data_offsets": [0, 36]},
            {"dtype": ["F32"], "shape": [3, 3], "data_offsets": [0, 36]},
            {"dtype": "F32"},
        ],
    )
    def test_entries_that_do_not_add_up_are_refused(self, tmp_path: Path, entry: object):
        text = json.dumps({"w": entry}).encode()
        path = tmp_path / "w.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(36))
        with fails("w"):
            read_tensor(path, "w")


def test_a_file_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_config(tmp_path, config())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with fails("No space left"):
        write_config(tmp_path, dataclasses.replace(config(), fingerprint="new"))
    assert read_config(tmp_path) == config()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
