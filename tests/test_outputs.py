"""What the program wrote is never taken for data; it replaces and deletes nothing else unasked."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinysource import CLASSES, TINY, command, draw_source, environment, flags

from signsclf import outputs
from signsclf.data.table import describe, read_source
from signsclf.data.tree import list_archive, list_folder
from signsclf.errors import ModelError, SignsclfError, SourceError
from signsclf.inference.listing import expand
from signsclf.observer import Observer
from signsclf.outputs import is_own_file, mark_png, refuse_replacing
from signsclf.recipe import Recipe

RECIPE = Recipe(**TINY)
PREDICTIONS = "path,label,index,probability,accepted,error,label_2,probability_2\n"


def stop() -> threading.Event:
    """A request to stop, which a training heeds after its first batch."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Class folders of 12 images each, in which the test runs."""
    root = draw_source(tmp_path / "photos", tracks=4, frames=3)
    monkeypatch.chdir(root)
    return root


def counts(root: str | Path = ".") -> tuple[int, tuple[str, ...]]:
    found = read_source(root)
    return len(found.table), found.classes


ALL = (36, CLASSES)


def files_below(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


class TestWhatItWroteIsNoData:
    def test_a_model_folder(self, photos, model):
        shutil.copytree(model, "model")
        assert counts() == ALL
        assert any("'model/'" in line and "left out" in line for line in describe(read_source(".")))
        (photos / "model" / "cat").mkdir()
        shutil.copy("red bar/00000_00000.png", "model/cat/0.png")
        assert list_folder(photos).left_out != ("model/",)
        assert "model/cat/0.png" in list_folder(photos).files

    @pytest.mark.slow
    def test_an_interrupted_run_goes_on(self, photos):
        from signsclf.runs.train import resume, train

        assert train(".", "model", RECIPE, stop=stop()).stopped
        assert counts() == ALL
        assert not resume("model").stopped
        assert counts() == ALL

    def test_reports_counts_predictions_and_searches(self, photos, model, cli):
        assert cli("evaluate", model, ".", "--report", ".").code == 0
        assert counts() == ALL
        assert cli("evaluate", model, ".", "--report", "report").code == 0
        assert cli("data", "check", ".", "--out", "counts").code == 0
        assert cli("data", "check", ".", "--out", ".").code == 0
        for form in ("csv", "json", "jsonl", "parquet", "txt"):
            assert cli("predict", ".", "-r", "--model", model, "--out", f"p.{form}").code == 0
        assert cli("predict", ".", "-r", "--model", model, "--out", "red bar/q.csv").code == 0
        assert counts() == ALL
        foreign = [name for name in files_below(photos) if name.partition("/")[0] not in CLASSES]
        assert [name for name in foreign if not is_own_file(photos / name)] == []
        assert len(foreign) > 20
        told = cli("data", "check", ".").err
        assert "what signsclf wrote there is left out" in told
        assert "'counts/'" in told

    def test_heat_maps_are_not_predicted(self, photos, model, cli):
        for place in ("zoom", ".", "red bar"):
            for _ in range(2):
                ran = cli("predict", ".", "-r", "--explain", place, "--model", model, "--out", "../p.csv")
                assert ran.code == 0
                assert (photos.parent / "p.csv").read_text().count("\n") == 37
        assert "left out what signsclf wrote: " in ran.err
        ran = cli("predict", "red bar/*.png", "--model", model, "--json")
        assert len(json.loads(ran.out)) == 12
        assert counts() == ALL
        moved = next(Path("zoom").iterdir())
        moved.rename("blue disc/renamed.png")
        assert counts() == ALL

    def test_an_archive_of_all_that(self, photos, model, cli):
        assert cli("predict", ".", "-r", "--explain", "zoom", "--model", model, "--out", "p.csv").code == 0
        shutil.copytree(model, "model")
        shutil.make_archive("../all", "zip", ".")
        assert counts("../all.zip") == ALL
        assert len(list(expand(["../all.zip"], recursive=True))) == 36

    def test_predictions_are_labels_only_where_their_file_is_named(self, photos):
        rows = [f"{path},red bar,2,0.9,,,," for path in sorted(files_below(photos))]
        Path("p.csv").write_text(PREDICTIONS + "\n".join(rows) + "\n")
        assert counts() == ALL
        found = read_source("p.csv")
        assert (len(found.table), found.classes) == (36, ("red bar",))
        assert any("signsclf wrote this table" in note for note in found.notes)
        Path("p.csv").write_text("\ufeff" + Path("p.csv").read_text().replace(",", ";"))
        assert counts() == ALL
        Path("p.csv").write_text(Path("p.csv").read_text().lstrip("\ufeff").replace(";", ","))
        for name in CLASSES[:2]:
            shutil.rmtree(name)
        flat = photos / "red bar"
        shutil.move("p.csv", flat / "p.csv")
        with pytest.raises(SourceError, match=r"no class folders.*left out.*'p\.csv'"):
            read_source(flat)
        (flat / "labels.csv").write_text("path,label\n00000_00000.png,a\n00001_00000.png,b\n")
        assert counts(flat) == (2, ("a", "b"))

    def test_what_earlier_versions_wrote(self, photos):
        place = photos / "counts"
        place.mkdir()
        (place / "class_counts.csv").write_text("label,images,unassigned\nred bar,40,40\n")
        shutil.copy("red bar/00000_00000.png", place / "class_counts.png")
        assert counts() == ALL
        (place / "class_counts.csv").unlink()
        assert counts() == (37, (CLASSES[0], "counts", *CLASSES[1:]))

    def test_tables_and_pictures_of_others_stay_data(self, tmp_path):
        for name, head in {
            "a.csv": "path,label\n",
            "b.csv": "path,label,index\n",
            "c.csv": "path,label,predicted\n",
            "d.csv": "label,imagesize\n",
            "e.jsonl": '{"path": "a.png", "label": "cat"}\n',
            "f.json": '[{"path": "a.png", "label": "cat", "probability": 1}]\n',
            "g.txt": "a.png\n  cat\n",
            "h.html": "<!doctype html><title>mine</title>",
            "i.parquet": "PAR1",
            "j.png": "no picture",
            "config.json": '{"architecture": "resnet"}',
            "SHA256SUMS": f"{'0' * 64}  a.csv\n",
            "run.json": '{"recipe": 1}',
        }.items():
            (tmp_path / name).write_text(head)
        Image.new("RGB", (9, 9)).save(tmp_path / "k.png")
        assert [name for name in files_below(tmp_path) if is_own_file(tmp_path / name)] == []
        assert not list_folder(tmp_path).left_out

    def test_a_marked_picture_has_the_same_pixels(self, tmp_path):
        pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        (tmp_path / "b.png").write_bytes(mark_png((tmp_path / "a.png").read_bytes()))
        with Image.open(tmp_path / "b.png") as image:
            image.verify()
        with Image.open(tmp_path / "b.png") as image:
            assert (np.asarray(image) == pixels).all()
            assert image.text == {"Software": "signsclf"}
        assert (is_own_file(tmp_path / "a.png"), is_own_file(tmp_path / "b.png")) == (False, True)

    def test_a_damaged_archive_is_for_its_reader_to_report(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/a.png", bytes(5000))
            archive.writestr("config.json", '{"signsclf": {}}')
            archive.writestr("SHA256SUMS", "x")
        data = bytearray((tmp_path / "a.zip").read_bytes())
        data[40:50] = b"\xff" * 10
        (tmp_path / "a.zip").write_bytes(data)
        assert list_archive(tmp_path / "a.zip").image_names == ["x/a.png"]


class TestOverwrite:
    FOREIGN = ("NOTES.txt", ".git/HEAD", "samples/cat/0.png")

    def with_others(self, folder: Path) -> dict[str, bytes]:
        for name in self.FOREIGN:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("mine")
        return files_below(folder)

    @pytest.mark.parametrize("command", ["train", "export", "compare"])
    def test_a_folder_with_other_files_is_refused_by_name(self, source, own_model, cli, command, tmp_path):
        place = own_model
        if command == "compare":
            place = tmp_path / "ladder" / "mlp"
            place.parent.mkdir()
            shutil.copytree(own_model, place)
        before = self.with_others(place)
        ran = {
            "train": lambda: cli("train", source, "--out", place, "--overwrite", *flags(epochs=1)),
            "export": lambda: cli("export", own_model, "--out", place, "--overwrite"),
            "compare": lambda: cli(
                "compare", source, "--models", "mlp", "--size", 16, "--epochs", 1, "--out", place.parent, "--overwrite"
            ),
        }[command]()
        assert ran.code != 0
        assert all(name in ran.out + ran.err for name in (".git/", "NOTES.txt", "samples/", "--out"))
        assert files_below(place) == before

    def test_images_that_are_trained_on_stay(self, own_model, cli):
        draw_source(own_model / "samples", tracks=2, frames=2)
        before = files_below(own_model)
        ran = cli("train", own_model / "samples", "--out", own_model, "--overwrite", *flags(epochs=1))
        assert ran.code == 2
        assert "samples/" in ran.complaint
        assert files_below(own_model) == before

    def test_not_even_images_that_the_program_wrote(self, own_model, tmp_path, cli):
        stored = sorted((own_model / "run" / "replay").glob("*.png"))
        rows = [f"{path},{'ab'[i % 2]}" for i, path in enumerate(stored)]
        (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
        ran = cli("train", tmp_path / "t.csv", "--out", own_model, "--overwrite", *flags(epochs=1, valid_fraction=0))
        assert ran.code == 2
        assert "is trained on" in ran.complaint
        assert stored[0].exists()

    def test_an_interrupted_run_with_other_files(self, source, tmp_path, cli):
        from signsclf.runs.train import train

        out = tmp_path / "model"
        assert train(source, out, RECIPE, stop=stop()).stopped
        before = self.with_others(tmp_path / "model.partial")
        ran = cli("train", source, "--out", out, "--overwrite", *flags(epochs=1))
        assert ran.code == 2
        assert "NOTES.txt" in ran.complaint
        assert files_below(tmp_path / "model.partial") == before
        for name in ("NOTES.txt", ".git", "samples"):
            path = tmp_path / "model.partial" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert train(source, out, RECIPE.replace(epochs=1), overwrite=True).metrics

    def test_what_came_during_the_training_is_found_before_the_replacement(self, source, own_model):
        from signsclf.runs.train import train

        class Adds(Observer):
            def say(self, line: str) -> None:
                if line == "exporting":
                    (own_model / "NOTES.txt").write_text("mine")

        with pytest.raises(ModelError, match=r"NOTES\.txt.*new model is in .*partial"):
            train(source, own_model, RECIPE.replace(epochs=1), overwrite=True, observer=Adds())
        assert (own_model / "NOTES.txt").exists()
        assert (own_model / "model.onnx").exists()

    def test_a_model_folder_or_run_of_another_program(self, source, tmp_path, cli):
        for name, text in (("config.json", '{"architectures": ["ViT"]}'), ("run.json", '{"id": 7}'), ("w.bin", "w")):
            for place in (tmp_path / "hub", tmp_path / "new.partial"):
                place.mkdir(exist_ok=True)
                (place / name).write_text(text)
        (tmp_path / "hub" / "SHA256SUMS").write_text(f"{'0' * 64}  config.json\n{'0' * 64}  w.bin\n")
        before = files_below(tmp_path)
        ran = cli("train", source, "--out", tmp_path / "hub", "--overwrite", *flags(epochs=1))
        assert "is not a model folder" in ran.complaint
        ran = cli("train", source, "--out", tmp_path / "new", "--overwrite", *flags(epochs=1))
        assert "config.json, run.json, w.bin" in ran.complaint
        assert files_below(tmp_path) == before

    def test_line_ends_that_git_changed_are_no_change(self, own_model):
        card = own_model / "README.md"
        card.write_bytes(card.read_bytes().replace(b"\n", b"\r\n"))
        assert outputs.foreign_names(own_model) == []
        card.write_bytes(card.read_bytes() + b"mine")
        assert outputs.foreign_names(own_model) == ["README.md"]

    def test_only_what_is_its_own_is_deleted(self, own_model):
        before = self.with_others(own_model)
        outputs.delete_own(own_model)
        assert files_below(own_model) == {name: before[name] for name in self.FOREIGN}


class TestReplacing:
    def test_predict_replaces_no_image_list_or_table(self, photos, model, cli):
        images = sorted(str(path) for path in Path("red bar").iterdir())
        Path("labels.csv").write_text("path,label\n")
        Path("list.txt").write_text("\n".join(images) + "\n")
        before = files_below(photos)
        for ran in (
            cli("predict", "--model", model, "--out", *images),
            cli("predict", images[0], "--model", model, "--format", "csv", "--out", images[1]),
            cli("predict", images[0], "--model", model, "--out", "labels.csv"),
            cli("predict", "-", "--model", model, "--out", "list.txt", stdin="\n".join(images)),
            cli("data", "render", "--sheet", images[0]),
            cli("predict", images[0], "--model", model, "--format", "csv", "--out", images[0], "--overwrite"),
        ):
            assert ran.code == 2
            assert "another file" in ran.complaint
            assert files_below(photos) == before
        ran = cli("predict", images[0], "--model", model, "--format", "csv", "--out", "labels.csv", "--overwrite")
        assert ran.code == 0
        assert Path("labels.csv").read_text().startswith("path,label,index")

    def test_its_own_are_replaced_by_the_same_command(self, photos, model, cli):
        for _ in range(2):
            for form in ("csv", "json", "jsonl", "parquet", "txt"):
                assert cli("predict", "red bar", "--model", model, "--out", f"../p.{form}").code == 0
            assert cli("predict", "red bar", "--model", model, "--explain", "../zoom").code == 0
            assert cli("evaluate", model, ".", "--report", "../report").code == 0
            assert cli("data", "check", ".", "--out", "../counts").code == 0
            assert cli("diff", model, model, ".", "--out", "../d.csv").code == 0

    def test_folders_of_results(self, photos, model, cli):
        place = photos.parent / "mine"
        place.mkdir()
        for name in (
            "predictions.csv",
            "class_counts.png",
            "lr_find.json",
            "comparison.html",
            "000001-00000_00000.png",
        ):
            (place / name).write_text("mine")
        before = files_below(place)
        for name, ran in {
            "predictions.csv": cli("evaluate", model, ".", "--report", place),
            "class_counts.png": cli("data", "check", ".", "--out", place),
            "lr_find.json": cli("lr-find", ".", "--out", place, *flags(epochs=None)),
            "comparison.html": cli("compare", ".", "--models", "mlp", "--out", place),
            "000001-00000_00000.png": cli("predict", "red bar", "--model", model, "--explain", place),
        }.items():
            assert ran.code == 2
            assert name in ran.complaint
            assert "--overwrite" in ran.complaint
            assert files_below(place) == before
        assert cli("data", "check", ".", "--out", place, "--overwrite").code == 0

    def test_a_model_folder_stays_as_it_was_written(self, photos, own_model, cli):
        before = files_below(own_model)
        ran = cli("evaluate", own_model, ".", "--report", own_model / "run")
        assert "belongs to the model folder" in ran.complaint
        ran = cli("diff", own_model, own_model, ".", "--overwrite", "--out", own_model / "run" / "predictions.csv")
        assert "belongs to the model folder" in ran.complaint
        assert files_below(own_model) == before

    def test_a_table_that_is_read_is_not_written(self, photos, model, cli):
        table = Path("per_class.csv")
        rows = [f"{path},{path.parent.name}" for path in sorted(Path().rglob("*.png"))]
        table.write_text("path,label\n" + "\n".join(rows) + "\n")
        before = table.read_bytes()
        ran = cli("evaluate", model, table, "--report", ".", "--overwrite")
        assert "it is read" in ran.complaint
        assert table.read_bytes() == before

    def test_what_folders_patterns_and_lists_lead_to_is_read(self, photos, model, cli):
        with zipfile.ZipFile("z.zip", "w") as archive:
            archive.write("red bar/00000_00000.png")
        Path("list.txt").write_text("red bar/00000_00000.png\n")
        for name in ("confusion.png", "class_counts.png", "lr_find.png", "comparison.png"):
            shutil.copy("red bar/00000_00001.png", f"red bar/{name}")
        before = files_below(photos)
        image = "red bar/00000_00000.png"
        written = ("--format", "csv", "--overwrite", "--out")
        for ran in (
            cli("predict", "red bar", "--model", model, *written, image),
            cli("predict", "red*/*.png", "--model", model, *written, image),
            cli("predict", "-", "--model", model, *written, image, stdin=image),
            cli("predict", "z.zip/red bar", "--model", model, *written, "z.zip"),
            cli("evaluate", model, ".", "--report", "red bar", "--overwrite"),
            cli("data", "check", ".", "--out", "red bar", "--overwrite"),
            cli("lr-find", ".", "--out", "red bar", "--overwrite", *flags(epochs=None)),
            cli("compare", ".", "--models", "mlp", "--out", "red bar", "--overwrite"),
            cli("diff", model, model, ".", "--out", "list.txt", "--overwrite"),
        ):
            assert ran.code == 2
            assert "read" in ran.complaint or ".txt" in ran.complaint
            assert files_below(photos) == before

    @pytest.mark.skipif(sys.platform == "win32", reason="no descriptor's file is known by its identity")
    def test_a_list_on_standard_input_is_not_replaced(self, photos, model):
        listed = Path("list.txt")
        listed.write_text("red bar/00000_00000.png\n")
        arguments = command("predict", "-", "--model", model, "--out", listed, "--overwrite")
        with listed.open() as file:
            done = subprocess.run(arguments, stdin=file, capture_output=True, text=True, env=environment(), check=False)
        assert done.returncode == 2
        assert "it is read" in done.stderr
        assert listed.read_text() == "red bar/00000_00000.png\n"

    def test_empty_files_and_new_ones_need_no_leave(self, tmp_path):
        (tmp_path / "empty").touch()
        refuse_replacing(tmp_path / "empty")
        refuse_replacing(tmp_path / "new")
        (tmp_path / "full").write_text("x")
        with pytest.raises(SignsclfError, match=r"^--out .*full: exists.*--overwrite"):
            refuse_replacing(tmp_path / "full")
        refuse_replacing(tmp_path / "full", overwrite=True)
        with pytest.raises(SignsclfError, match="it is read"):
            refuse_replacing(tmp_path / "full", overwrite=True, inputs=["*.png", "a\0", tmp_path / "full"])
        with pytest.raises(SignsclfError, match="a folder"):
            refuse_replacing(tmp_path, overwrite=True)


class TestPlacesOfPredictions:
    def test_the_suffix_chooses_the_format(self, photos, model, cli):
        images = sorted(Path("red bar").iterdir())[:2]
        for name, start in {
            "p.csv": b"path,label,",
            "p.CSV": b"path,label,",
            "p.json": b"[\n",
            "p.jsonl": b'{"path"',
            "p.ndjson": b'{"path"',
            "p.parquet": b"PAR1",
            "p.txt": b"red bar/",
            "p": b"red bar/",
        }.items():
            assert cli("predict", *images, "--model", model, "--out", f"../{name}").code == 0
            assert (photos.parent / name).read_bytes().startswith(start)
        ran = cli("predict", *images, "--model", model, "--out", "../p.xlsx")
        assert ran.code == 2
        assert all(part in ran.complaint for part in (".xlsx", ".csv", ".jsonl", ".parquet", "--format"))
        assert not (photos.parent / "p.xlsx").exists()
        assert cli("predict", *images, "--model", model, "--out", "../p.xlsx", "--format", "csv").code == 0
        assert cli("predict", *images, "--model", model, "--out", "../q.csv", "--json").code == 0
        assert (photos.parent / "q.csv").read_text().startswith("[")
        assert ".csv" in cli("diff", model, model, ".", "--out", "../d.json").complaint
        assert ".png" in cli("data", "render", "--sheet", "../s.jpg").complaint

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
    @pytest.mark.parametrize("form", ["csv", "parquet"])
    def test_pipes_devices_and_links(self, photos, model, cli, form):
        image = "red bar/00000_00000.png"
        os.mkfifo("../pipe")
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(Path("../pipe").read_bytes()))
        reader.start()
        assert cli("predict", image, "--model", model, "--format", form, "--out", "../pipe").code == 0
        reader.join(10)
        assert read[0].startswith(b"path,label" if form == "csv" else b"PAR1")
        assert stat.S_ISFIFO(Path("../pipe").stat().st_mode)
        assert cli("predict", image, "--model", model, "--format", form, "--out", "/dev/null").code == 0
        assert cli("diff", model, model, ".", "--out", "/dev/null").code == 0
        assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
        Path("../link").symlink_to("real")
        Path("../real").touch()
        for _ in range(2):
            assert cli("predict", image, "--model", model, "--format", form, "--out", "../link").code == 0
            assert Path("../link").is_symlink()
            assert is_own_file("../real")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
    def test_a_full_device_is_one_line(self, photos, model, cli):
        for form in ("csv", "parquet"):
            ran = cli("predict", "red bar", "--model", model, "--format", form, "--out", "/dev/full")
            assert ran.code == 2
            assert "/dev/full: cannot be written (No space left on device)" in ran.complaint

    def test_a_long_name_is_shortened_for_its_picture(self, photos, model, cli):
        image = f"../{'ü' * 120}nnnn.png"
        shutil.copy("red bar/00000_00000.png", image)
        ran = cli(
            "predict", image, "red bar/00000_00000.png", "--model", model, "--explain", "../m", "--out", "../o.csv"
        )
        assert ran.code == 0
        assert Path("../o.csv").read_text().count("\n") == 3
        first, second = sorted(path.name for path in Path("../m").iterdir())
        assert first == f"000001-{'ü' * 60}.png"
        assert second == "000002-00000_00000.png"

    def test_a_picture_that_cannot_be_written_is_named_itself(self, photos, model, cli):
        Path("../m/000001-00000_00000.png").mkdir(parents=True)
        ran = cli("predict", "red bar/00000_00000.png", "--model", model, "--explain", "../m", "--out", "../o.csv")
        assert ran.code == 2
        assert "000001-00000_00000.png" in ran.complaint
        assert "o.csv" not in ran.complaint
        assert not Path("../o.csv").exists()
