from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tinysource import CLASSES, draw_source

from signsclf.choices import SplitName
from signsclf.data.gtsrb import CLASS_NAMES
from signsclf.errors import BadImageError, ModelError, SourceError
from signsclf.evaluation import report as evalreport
from signsclf.evaluation.evaluate import evaluate, near_training
from signsclf.evaluation.report import examine, write_evaluation
from signsclf.files import file_hash
from signsclf.inference.classifier import Classifier
from signsclf.metrics.classification import wilson

ALWAYS = {
    "report.html",
    "report.json",
    "per_class.csv",
    "predictions.csv",
    "breakdown.csv",
    "confusions.csv",
    "confusion.png",
    "mistakes.png",
}


def rows(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """Other shapes, so noisy that the tiny model is wrong on many: there are mistakes to show."""
    root = draw_source(tmp_path_factory.mktemp("hard") / "hard <b>", tracks=3, frames=4, seed=3)
    rng = np.random.default_rng(0)
    for path in sorted(root.rglob("*.png"))[::2]:
        with Image.open(path) as image:
            pixels = np.asarray(image) // 8 + rng.integers(0, 220, (20, 20, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture
def others(tmp_path):
    """Pictures of nothing, one of them broken, one in a folder below."""
    folder = tmp_path / "others"
    (folder / "below").mkdir(parents=True)
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("below" if i == 3 else ".") / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_the_page_needs_nothing_else_and_obeys_no_name(model, hard, tmp_path):
    found = examine(evaluate(model, hard))
    assert {path.name for path in write_evaluation(found, tmp_path / "out")} == ALWAYS
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert not re.findall(r"<script|javascript:|<link(?! rel=\"icon\" href=\"data:,\")|@import|url\(", page)
    assert {source[:11] for source in re.findall(r'src="([^"]*)"', page)} == {"data:image/"}
    assert not re.findall(r'(?:href|src)="(?:https?:|//|file:)', page)
    assert "hard &lt;b&gt;" in page
    assert str(tmp_path) not in page
    assert str(hard.parent) not in page


def test_the_figures_on_the_page_are_those_of_the_json(model, hard, tmp_path):
    judged = evaluate(model, hard)
    write_evaluation(examine(judged), tmp_path)
    told = json.loads((tmp_path / "report.json").read_text("utf-8"))
    page = (tmp_path / "report.html").read_text("utf-8").replace("\u00a0", " ")
    assert told["n"] == 36
    assert 0 < told["accuracy"] < 1
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "majority_accuracy"):
        assert f"{100 * told[name]:.2f} %" in page
    assert f"{100 * told['calibration']['after']['ece']:.2f} %" in page
    assert told["tracks"]["n"] == 9
    worst = [group["right"] for group in told["worst_groups"]]
    assert worst
    assert worst == sorted(worst)
    assert sum(row["n"] for row in told["sizes"]) == 36
    wrong = [row for row in rows(tmp_path / "predictions.csv") if row["label"] != row["predicted"]]
    assert sum(int(row["n"]) for row in rows(tmp_path / "confusions.csv")) == len(wrong) > 0


def test_one_inference_pass_serves_all_parts(model, hard, tmp_path, monkeypatch):
    predicted = []
    run = Classifier.probabilities
    monkeypatch.setattr(
        Classifier, "probabilities", lambda self, batch: predicted.append(len(batch)) or run(self, batch)
    )
    write_evaluation(examine(evaluate(model, hard)), tmp_path)
    assert sum(predicted) == 36


def test_images_that_fitted_the_temperature_do_not_judge_it(model, source, hard):
    held_out = examine(evaluate(model, source)).found.confidence
    assert held_out.cross_fitted
    new = examine(evaluate(model, hard))
    assert not new.found.confidence.cross_fitted
    assert new.found.confidence.after == new.evaluation.report
    temperature = new.evaluation.classifier.config.temperature
    assert new.found.confidence.temperature == temperature != 1
    assert new.found.confidence.before.nll != new.found.confidence.after.nll


def test_whoever_reads_is_told_what_flatters(model, source, own_model, tmp_path):
    def page(folder, part):
        write_evaluation(examine(evaluate(folder, source, split=part)), tmp_path)
        return (tmp_path / "report.html").read_text("utf-8")

    assert "nothing else was chosen on them" in page(model, None)
    assert "was trained on 90 of these 90 images" in page(model, SplitName.TRAIN)
    shutil.rmtree(own_model / "run")
    assert "is not known" in page(own_model, None)


def test_a_model_without_a_feature_map_has_no_heat_maps(model, hard, tmp_path, monkeypatch):
    judged = evaluate(model, hard)
    write_evaluation(examine(judged), tmp_path / "with")
    monkeypatch.setattr(Classifier, "_check_signature", lambda self: False)
    write_evaluation(examine(evaluate(model, hard)), tmp_path / "without")
    assert "heat map for" in (tmp_path / "with" / "report.html").read_text("utf-8")
    assert "heat map for" not in (tmp_path / "without" / "report.html").read_text("utf-8")


def test_a_single_image_is_enough(model, tmp_path):
    draw_source(tmp_path / "one", tracks=1, frames=1, classes=CLASSES[:1])
    found = examine(evaluate(model, tmp_path / "one"), robust=True)
    write_evaluation(found, tmp_path / "out")
    assert found.found.intervals["accuracy"] == wilson(1, 1)
    assert found.found.intervals["macro_f1"] is None
    assert found.found.robustness.n == 1


class TestAudit:
    def test_training_images_are_left_out_and_named(self, model, source, tmp_path):
        pytest.importorskip("cleanlab")
        mixed = tmp_path / "mixed"
        shutil.copytree(source, mixed / "train")
        draw_source(mixed / "test", tracks=2, frames=5, seed=9)
        record = rows(model / "run" / "split.csv")
        seen = next(row for row in record if row["split"] == "train" and row["label"] == "red bar")
        shutil.copy(source / seen["path"], mixed / "test" / "blue disc" / "00000_00000.png")
        found = examine(evaluate(model, mixed), audit=True)
        write_evaluation(found, tmp_path / "out")
        assert (found.found.audit.n, found.found.audit.n_seen) == (29, 1)
        assert rows(tmp_path / "out" / "duplicates.csv") == [
            {
                "path": "test/blue disc/00000_00000.png",
                "label": "blue disc",
                "training_path": seen["path"],
                "training_label": "red bar",
            }
        ]

    def test_a_wrong_label_is_suspected(self, model, tmp_path):
        pytest.importorskip("cleanlab")
        other = draw_source(tmp_path / "other", tracks=6, frames=5, seed=21)
        for frame in range(3):
            moved = other / "blue disc" / f"00000_0000{frame}.png"
            moved.rename(other / "red bar" / f"0000{7 + frame}_00000.png")
        judged = evaluate(model, other)
        found = examine(judged, audit=True)
        write_evaluation(found, tmp_path / "out")
        suspects = {row["path"]: row["suggested"] for row in rows(tmp_path / "out" / "label_issues.csv")}
        moved = {f"red bar/0000{n}_00000.png" for n in (7, 8, 9)}
        assert len(moved & suspects.keys()) >= 2
        assert all(suspects[path] == "blue disc" for path in moved & suspects.keys())

    def test_images_trained_on_are_not_judged_by_it(self, model, own_model, source):
        pytest.importorskip("cleanlab")
        with pytest.raises(SourceError, match="trained on every one"):
            examine(evaluate(model, source, split=SplitName.TRAIN), audit=True)
        shutil.rmtree(own_model / "run")
        with pytest.raises(ModelError, match=r"no run/split\.csv"):
            examine(evaluate(own_model, source), audit=True)


def test_the_official_test_set_is_known_by_its_number_and_counted_without_the_training_frames(monkeypatch):
    monkeypatch.setattr(evalreport, "N_TEST", 4)
    judged = SimpleNamespace(
        split="test",
        names=("00665.ppm", "Images/00666.ppm", "Test/02291.png", "00007.ppm"),
        probabilities=np.eye(2)[[0, 1, 1, 1]],
        targets=np.array([0, 0, 1, 0]),
        classifier=SimpleNamespace(config=SimpleNamespace(is_gtsrb=True), labels=CLASS_NAMES),
    )
    found = evalreport._without_training_images(judged)
    assert (found.n, found.right) == (2, 1)
    assert "2 test images" in found.note
    judged.split = "valid"
    assert evalreport._without_training_images(judged) is None


@pytest.fixture
def copied(model, tmp_path):
    """A model that was trained on a source, of whose test images two are training images made brighter."""
    place = draw_source(tmp_path / "set" / "train", tracks=2, frames=3, seed=5)
    draw_source(tmp_path / "set" / "test", tracks=2, frames=1, seed=7)
    for folder in (tmp_path / "set").rglob("*"):
        if folder.suffix == ".png":
            # Names without a track, so that no group is known.
            folder.rename(folder.with_name(f"x{folder.stem.replace('_', 'y')}.png"))
    for name in CLASSES[:2]:
        with Image.open(min((place / name).iterdir())) as image:
            brighter = np.minimum(np.asarray(image, dtype=float) * 1.02, 255).astype(np.uint8)
        Image.fromarray(brighter).save(tmp_path / "set" / "test" / name / "again.png")
    own = shutil.copytree(model, tmp_path / "own")
    images = sorted(place.rglob("*.png"))
    trained = [f"train/{path.relative_to(place).as_posix()},{path.parent.name},,train,none" for path in images]
    (own / "run" / "split.csv").write_text("\n".join(["path,label,group,split,input", *trained]) + "\n")
    sums = (own / "SHA256SUMS").read_text().splitlines()
    digest = file_hash(own / "run" / "split.csv")
    sums = [f"{digest}  run/split.csv" if line.endswith("run/split.csv") else line for line in sums]
    (own / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return own, tmp_path / "set"


def test_the_figure_without_near_duplicates_of_training_images(copied, tmp_path):
    own, place = copied
    judged = evaluate(own, place)
    near = near_training(judged)
    assert {name for name, is_near in zip(judged.names, near, strict=True) if is_near} == {
        f"test/{name}/again.png" for name in CLASSES[:2]
    }
    found = examine(judged)
    kept = found.found.without_near_training
    assert (kept.n, found.found.n_near_training) == (len(judged.names) - 2, 2)
    assert kept.right == int(((judged.probabilities.argmax(axis=1) == judged.targets) & ~near).sum())
    write_evaluation(found, tmp_path / "out")
    assert "without near-duplicates" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["without_near_training"]["n"] == kept.n


def test_images_of_known_groups_and_of_other_sources_are_not_compared(copied, model, source, hard):
    own, place = copied
    judged = evaluate(own, place)
    assert not near_training(replace(judged, ungrouped=np.zeros(len(judged.names), bool))).any()
    assert near_training(evaluate(model, hard)) is None
    assert near_training(evaluate(model, source, split=SplitName.TRAIN)) is None


# -- the command line ------------------------------------------------------------------------------------------------


def test_report_with_everything(cli, model, hard, others, tmp_path):
    pytest.importorskip("cleanlab")
    out = tmp_path / "report"
    words = ["--report", out, "--robustness", "--unknown", others, "--audit", "--json"]
    ran = cli("evaluate", model, hard, *words)
    assert ran.code == 0, ran.err
    extra = {"robustness.csv", "unknown.csv", "label_issues.csv", "duplicates.csv"}
    assert {path.name for path in out.iterdir()} == ALWAYS | extra
    assert ran.err.count("written: ") == len(ALWAYS | extra)
    told = json.loads(ran.out)
    assert told == json.loads((out / "report.json").read_text("utf-8"))
    assert len(rows(out / "robustness.csv")) == 11 * 6
    assert told["robustness"]["n"] == 36
    assert told["unknown"]["n"] == 4
    unknown = {row["path"].rpartition("/")[2]: row for row in rows(out / "unknown.csv")}
    assert set(unknown) == {"0.png", "1.png", "2.png", "3.png", "broken.png"}
    assert [name for name, row in unknown.items() if row["error"]] == ["broken.png"]
    assert sum(row["accepted"] == "1" for row in unknown.values()) == told["unknown"]["accepted"]
    assert told["audit"]["n"] == 36


def test_for_a_person_without_a_report(cli, model, hard, others):
    ran = cli("evaluate", model, hard, "--robustness", "--unknown", others)
    assert ran.code == 0, ran.err
    for word in ("calibration error: ", "corrupted: mean accuracy ", "of 4 accepted, AUROC ", "1 of them that cannot"):
        assert word in ran.out


def test_the_same_seed_gives_the_same_report(cli, model, hard, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli("evaluate", model, hard, "--robustness", "--seed", seed, "--report", tmp_path / name).code == 0
    pages = [(tmp_path / name / "report.html").read_bytes() for name in "abc"]
    assert pages[0] == pages[1] != pages[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--unknown", "nowhere"], ["--unknown", "nowhere", "folder"]),
        (["--seed", "-1"], ["--seed"]),
    ],
)
def test_wrong_use(cli, model, source, words, told):
    ran = cli("evaluate", model, source, *words)
    assert ran.code == 2
    assert all(word in ran.complaint for word in told)


def test_other_pictures_that_none_can_be_read_of(cli, model, hard, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = cli("evaluate", model, hard, "--unknown", tmp_path / "empty")
    assert ran.code == 2
    assert "no picture there can be read" in ran.complaint


def test_an_image_gone_since_is_one_line(model, tmp_path):
    other = draw_source(tmp_path / "other", tracks=1)
    found = examine(evaluate(model, other))
    shutil.rmtree(other)
    with pytest.raises(BadImageError):
        write_evaluation(found, tmp_path / "out")
