from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tinymodel import write_folder
from tinysource import CLASSES, Watched, draw_source

from signsclf.choices import Layout, SplitName
from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.errors import BadImageError, ModelError, SourceError
from signsclf.evaluation.evaluate import evaluate, infer
from signsclf.inference.classifier import Classifier


def record(model) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((model / "run" / "split.csv").read_text())))


@pytest.fixture
def mixed(source, tmp_path):
    """A source with test images: two of them are training images under other names."""
    mixed = tmp_path / "mixed"
    shutil.copytree(source, mixed / "train")
    draw_source(mixed / "test", tracks=2, frames=5, seed=9)
    return mixed


def test_the_held_out_images_are_exactly_those_of_the_record(model, source):
    judged = evaluate(model, source)
    held_out = {row["path"] for row in record(model) if row["split"] == "valid"}
    assert judged.split == "valid"
    assert set(judged.names) == held_out
    assert len(judged.names) == 30
    assert judged.seen_in_training == ()
    assert evaluate(model, source, split=SplitName.VALID).names == judged.names
    stored = json.loads((model / "run" / "metrics.json").read_text())
    again = json.loads(json.dumps(judged.to_dict()))
    for name, value in stored.items():
        # Up to rounding: the temperature divides the logits or, in the file, the weights.
        expected = value if name == "per_class" else pytest.approx(value, abs=1e-6)
        assert again[name] == expected, name


def test_an_archive_of_the_source_is_the_same_source(model, source, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "shapes"), "zip", source)
    assert set(evaluate(model, archive).names) == {r["path"] for r in record(model) if r["split"] == "valid"}


def test_what_training_decoded_is_not_decoded_again(model, source, monkeypatch):
    def undecodable(*_):
        raise AssertionError("decoded again")

    expected = evaluate(model, source, cache="off")
    monkeypatch.setattr("signsclf.images.decode", undecodable)
    again = evaluate(model, source)
    assert again.names == expected.names
    assert np.array_equal(again.pixels, expected.pixels)


def test_training_images_are_counted_as_seen(model, source):
    judged = evaluate(model, source, split=SplitName.TRAIN)
    assert len(judged.seen_in_training) == len(judged.names) == 90


def test_a_test_image_that_equals_a_training_image_is_counted_and_named(model, mixed):
    seen = [row["path"] for row in record(model) if row["split"] == "train" and row["label"] == "red bar"][:2]
    for number, path in enumerate(seen):
        # Another file format, the same pixels.
        with Image.open(mixed / "train" / path) as image:
            image.save(mixed / "test" / "red bar" / f"0000{number}_00000.bmp")
        (mixed / "test" / "red bar" / f"0000{number}_00000.png").unlink()
    judged = evaluate(model, mixed)
    assert judged.split == "test"
    assert len(judged.names) == 30
    assert len(judged.seen_in_training) == 2
    assert all("test/red bar" in name for name in judged.seen_in_training)
    assert judged.to_dict()["n_seen_in_training"] == 2


def test_another_source_without_parts_is_judged_whole(model, tmp_path):
    judged = evaluate(model, draw_source(tmp_path / "other", tracks=2, seed=7))
    assert (judged.split, judged.report.n) == ("all", 30)
    assert judged.report.accuracy >= 0.9


def test_its_own_valid_part_is_judged_where_it_has_one(model, tmp_path):
    draw_source(tmp_path / "other" / "train", tracks=2, seed=7)
    draw_source(tmp_path / "other" / "valid", tracks=1, seed=8)
    judged = evaluate(model, tmp_path / "other")
    assert (judged.split, judged.report.n) == ("valid", 15)


@pytest.mark.parametrize("split", [SplitName.VALID, SplitName.TRAIN])
@pytest.mark.parametrize("cache", ["off", "on"])
def test_what_was_held_out_is_of_its_own_source_only(model, source, tmp_path, split, cache):
    cache = "off" if cache == "off" else tmp_path / "cache"
    with pytest.raises(SourceError, match="not those trained on"):
        evaluate(model, draw_source(tmp_path / "other", seed=7), split=split, cache=cache)
    # The same names, one image of the split swapped for another.
    swapped = shutil.copytree(source, tmp_path / "swapped")
    one, other = [row["path"] for row in record(model) if row["split"] == split.value][:2]
    shutil.copy(swapped / one, swapped / other)
    with pytest.raises(SourceError, match="not those trained on"):
        evaluate(model, swapped, split=split, cache=cache)


def test_a_source_with_other_labels_is_not_the_one_trained_on(model, source, tmp_path):
    table = tmp_path / "table.csv"
    rows = [(row["path"], "red bar" if row["label"] == "blue disc" else row["label"]) for row in record(model)]
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    table.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    with pytest.raises(SourceError, match="not those trained on"):
        evaluate(model, table, split=SplitName.VALID)


def test_only_the_rows_of_the_split_are_decoded(model, source):
    watched = Watched()
    evaluate(model, source, cache="off", observer=watched)
    assert {total for task, _, total in watched.progressed if task == "decoding"} == {30}


def test_test_images_where_there_are_none(model, source):
    with pytest.raises(SourceError, match=r"no test images; leave --split out"):
        evaluate(model, source, split=SplitName.TEST)


def test_a_class_that_the_model_does_not_know(model, tmp_path):
    other = draw_source(tmp_path / "other", tracks=1, frames=1, classes=("blue disc", "hexagon"))
    with pytest.raises(SourceError, match=r"'hexagon'.*blue disc"):
        evaluate(model, other)


def test_a_class_that_the_source_lacks_is_told_from_a_bad_one(model, tmp_path):
    judged = evaluate(model, draw_source(tmp_path / "other", tracks=1, classes=CLASSES[:2]))
    assert judged.report.n_classes_present == 2
    assert judged.report.per_class[2].n == 0
    assert judged.report.macro_f1 > 0.9


def test_unreadable_images_stop_it_or_are_listed(model, tmp_path):
    other = draw_source(tmp_path / "other", tracks=1)
    (other / "red bar" / "00000_00003.png").write_bytes(b"")
    with pytest.raises(BadImageError, match=r"1 of 15.*00003\.png.*--skip-bad"):
        evaluate(model, other)
    judged = evaluate(model, other, skip_bad=True)
    assert judged.report.n == 14
    assert [name for name, _ in judged.unreadable] == ["red bar/00000_00003.png"]
    assert str(tmp_path) not in json.dumps(judged.to_dict())


def test_a_source_of_another_layout_is_refused(model, source):
    with pytest.raises(SourceError, match="--layout"):
        evaluate(model, source, layout=Layout.GTSRB)


def test_a_tampered_record_is_refused(own_model, source):
    path = own_model / "run" / "split.csv"
    path.write_text(path.read_text().replace("train", "valid", 1))
    with pytest.raises(ModelError, match=r"split\.csv.*checksum"):
        evaluate(own_model, source)


def test_without_a_record_that_is_said(own_model, source, cli):
    shutil.rmtree(own_model / "run")
    judged = evaluate(own_model, source)
    assert (judged.split, judged.has_record) == ("all", False)
    assert judged.to_dict()["n_seen_in_training"] is None
    assert "seen in training: unknown" in cli("evaluate", own_model, source).out
    with pytest.raises(SourceError, match=r"no run/split\.csv"):
        evaluate(own_model, source, split=SplitName.VALID)


def test_it_judges_the_exported_file(own_model, source):
    (own_model / "model.safetensors").unlink()
    assert evaluate(own_model, source).report.n == 30


def test_infer_is_the_classifier_in_batches(model):
    classifier = Classifier(model)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    probabilities = infer(classifier, pixels)
    assert probabilities.shape == (300, 3)
    np.testing.assert_allclose(probabilities, classifier.probabilities(pixels), atol=1e-6)


# -- the command line ------------------------------------------------------------------------------------------------


def test_json_is_one_object(cli, model, source):
    ran = cli("evaluate", model, source, "--json")
    assert ran.code == 0
    found = json.loads(ran.out)
    needed = {"n", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "top5", "per_class", "n_seen_in_training"}
    assert needed <= found.keys()
    assert found["n"] == 30
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert [row["label"] for row in found["per_class"]] == list(CLASSES)
    assert {"precision", "recall", "f1", "n"} <= found["per_class"][0].keys()
    assert "layout: class folders" in ran.err


def test_for_a_person(cli, model, mixed):
    ran = cli("evaluate", model, mixed)
    assert ran.out.startswith("test: accuracy ")
    assert "95 % interval" in ran.out
    assert "n = 30" in ran.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--split", "test"], ["no test images", "--split"]),
        (["--split", "nonsense"], ["--split", "nonsense", "valid"]),
        (["--layout", "gtsrb"], ["--layout"]),
    ],
)
def test_wrong_use(cli, model, source, words, told):
    ran = cli("evaluate", model, source, *words)
    assert ran.code == 2
    assert all(word in ran.complaint for word in told)


def test_sizes_groups_and_what_calibrated_are_told(model, source):
    judged = evaluate(model, source)
    assert set(judged.sizes) == {None}
    assert judged.pixels.shape == (30, 16, 16, 3)
    assert len(set(judged.groups)) == 6
    assert judged.n_calibrated == 30
    assert judged.train_counts == (30, 30, 30)
    assert evaluate(model, source, split=SplitName.TRAIN).n_calibrated == 0


def test_a_twin_is_named_with_its_place_in_training(model, mixed):
    seen = next(row for row in record(model) if row["split"] == "train" and row["label"] == "red bar")
    shutil.copy(mixed / "train" / seen["path"], mixed / "test" / "blue disc" / "00000_00000.png")
    assert evaluate(model, mixed).twins == {"test/blue disc/00000_00000.png": (seen["path"], "red bar")}


class TestClassIds:
    """Signs in folders called by ClassId, and a model of signs."""

    @pytest.fixture
    def signs(self, tmp_path):
        return write_folder(tmp_path / "signs", classes=CLASS_NAMES[:3], input_size=(8, 8))

    @pytest.fixture
    def drawn(self, tmp_path):
        def draw(*folders: str, stem: str = "x"):
            for i, folder in enumerate(folders):
                (tmp_path / "drawn" / folder).mkdir(parents=True)
                colour = ("red", "lime", "blue")[i % 3]
                Image.new("RGB", (8, 8), colour).save(tmp_path / "drawn" / folder / f"{stem}.png")
            return tmp_path / "drawn"

        return draw

    @pytest.mark.parametrize("digits", [1, 5])
    def test_are_matched_and_that_is_said(self, cli, signs, drawn, digits):
        source = drawn(*(f"{c:0{digits}}" for c in range(3)))
        ran = cli("evaluate", signs, source)
        assert ran.code == 0, ran.err
        assert "accuracy 100.00 %" in ran.out
        assert f"'{0:0{digits}}' is 'Speed limit 20 km/h'" in ran.err

    def test_in_a_table(self, signs, drawn):
        source = drawn("a", "b")
        table = source / "ids.csv"
        table.write_text("path,label\na/x.png,0\nb/x.png,1\n")
        assert evaluate(signs, table).report.n == 2

    def test_of_a_class_that_the_model_lacks(self, signs, drawn):
        with pytest.raises(SourceError, match="'Speed limit 60 km/h' is none that the model knows"):
            evaluate(signs, drawn("0", "3"))

    def test_a_label_that_all_but_is_one_is_named_with_it(self, signs, drawn):
        table = drawn("a") / "ids.csv"
        table.write_text("path,label\na/x.png,speed  limit 30 KM/h\n")
        with pytest.raises(SourceError, match="'Speed limit 30 km/h' differs by case or spaces alone, so call it that"):
            evaluate(signs, table)

    def test_of_another_benchmark_are_not(self, signs, drawn):
        source = drawn("0", "1", stem="01153_00000")
        with pytest.raises(SourceError, match=r"'0' is none that the model knows .*--layout gtsrb"):
            evaluate(signs, source)
        assert evaluate(signs, source, layout=Layout.GTSRB).report.n == 2

    def test_of_a_model_of_other_things_are_labels(self, tmp_path, drawn):
        numbers = write_folder(tmp_path / "numbers", classes=("0", "1", "2"), input_size=(8, 8))
        assert evaluate(numbers, drawn("0", "1")).report.n == 2
        with pytest.raises(SourceError, match="'0' is none that the model knows"):
            evaluate(write_folder(tmp_path / "colours", input_size=(8, 8)), tmp_path / "drawn")


def test_repeated_images_count_once_in_the_distinct_n_and_in_the_resampled_interval(cli, model, tmp_path):
    source = draw_source(tmp_path / "test", tracks=4, frames=1, seed=9)
    once = evaluate(model, source)
    assert (once.report.n, once.n_distinct, len(set(once.groups))) == (12, 12, 12)
    assert "n = 12)" in cli("evaluate", model, source).out
    for path in list(source.rglob("*.png")):
        shutil.copy(path, path.with_name(f"again{path.name}"))
    twice = evaluate(model, source)
    assert (twice.report.n, twice.n_distinct, len(set(twice.groups))) == (24, 12, 12)
    assert twice.to_dict()["n_distinct"] == 12
    ran = cli("evaluate", model, source, "--report", tmp_path / "r")
    assert "n = 24 in 12 groups, 12 distinct)" in ran.out
    assert "12 images of these 24 are, pixel for pixel, others of them" in (tmp_path / "r/report.html").read_text(
        "utf-8"
    )
