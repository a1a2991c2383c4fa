"""Tables of images and labels are found, read row by row and joined, and every complaint names the row."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections import Counter

import pytest
from smalltables import images, labels, noted, refusal, splits, text
from tinysource import TINY

from signsclf.choices import Layout, Reading
from signsclf.data import check
from signsclf.data.table import describe, read_source
from signsclf.errors import BadImageError, SourceError


@pytest.fixture
def root(tmp_path):
    return images(tmp_path, *(f"images/{i}.png" for i in range(8)))


def rows(numbers=range(8), classes="ab"):
    return [f"images/{i}.png,{classes[i % len(classes)]}" for i in numbers]


def table(root, *lines, name="t.csv", head="path,label"):
    return text(root / name, "\n".join([head, *lines]) + "\n")


class TestRows:
    @pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.tab", "t.txt", "T.CSV"])
    def test_suffixes(self, root, name):
        lines = [line.replace(",", "\t") for line in rows()]
        source = read_source(table(root, *lines, name=name, head="path\tlabel"))
        assert source.layout is Layout.TABLE
        assert source.classes == ("a", "b")

    def test_spaces_around_values(self, root):
        lines = ["\u00a0images/0.png\u200b ,\u3000cat", "images/1.png, cat\t", "images/2.png,dog\ufeff"]
        assert labels(
            read_source(table(root, *lines, head="label , path".replace("label , path", " path,label ")))
        ) == {
            "images/0.png": "cat",
            "images/1.png": "cat",
            "images/2.png": "dog",
        }

    def test_labels_that_differ_by_case(self, root):
        path = table(root, *rows(classes=["cat", "Cat", "cat", "dog"]))
        source = read_source(path)
        assert source.classes == ("Cat", "cat", "dog")
        assert "'cat' 4, 'Cat' 2" in noted(source, "--merge-case")
        assert read_source(path, Reading(merge_case=True)).classes == ("cat", "dog")

    def test_validation_that_differs_by_case(self, root):
        lines = [f"{line},{'valid' if i > 5 else 'train'}" for i, line in enumerate(rows(classes=["cat", "dog"]))]
        path = table(root, *(line.replace("cat,valid", "Cat,valid") for line in lines), head="path,label,split")
        assert (
            "classes that train lacks: 'Cat'; add training images of them or take them out, or give --merge"
            in refusal(path)
        )
        assert read_source(path, Reading(merge_case=True)).classes == ("cat", "dog")

    @pytest.mark.parametrize("label", ['"no\nentry"', '"give\tway"', "a\x07b", "x" * 1_001])
    def test_labels_that_are_no_line_of_text(self, root, label):
        said = refusal(table(root, rows()[0], f"images/1.png,{label}"))
        assert ": line 3: the label '" in said
        assert said.isprintable()
        assert "config.json" not in said

    def test_several_labels(self, root):
        said = refusal(table(root, rows()[0], "images/1.png,\"['cat', 'dog']\""))
        assert "line 3: \"['cat', 'dog']\" are 2 labels; a classifier takes one label each" in said

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("images/9.png,", "line 3 has no label"),
            (" ,a", "line 3 has no path"),
            ("images/1.png,['']", "has no label"),
        ],
    )
    def test_half_empty_rows(self, root, line, says):
        assert says in refusal(table(root, rows()[0], line, ",", ""))

    def test_half_empty_rows_are_counted(self, root):
        lines = [f"images/{i}.png," for i in range(5)]
        assert "lines 2, 3, 4 and 2 more have no label" in refusal(table(root, *lines))

    def test_test_images_without_a_label(self, root):
        lines = [f"{line},train" for line in rows(range(6))] + ["images/6.png,,test", "images/7.png,,test"]
        source = read_source(table(root, *lines, head="path,label,split"))
        assert set(source.table["split"]) == {"train"}
        assert "left out (2): lines 8, 9" in noted(source, "test images without a label")

    def test_rows_that_repeat(self, root):
        source = read_source(table(root, *rows(), rows()[2], "./images/5.png, b"))
        assert len(source.table) == 8
        assert "count once (2): lines 10, 11" in noted(source, "repeated")

    @pytest.mark.parametrize(
        ("head", "first", "second", "says"),
        [
            ("path,label", "images/0.png,a", "images/0.png,b", "another label: line 2 ('a') and line 4 ('b')"),
            ("path,label,split", "images/0.png,a,train", "images/0.png,a,test", "another split: line 2 ('train') and"),
            ("path,label,group", "images/0.png,a,x", "images/0.png,a,y", "another group: line 2 ('x') and"),
        ],
    )
    def test_rows_that_contradict_each_other(self, root, head, first, second, says):
        other = "images/1.png,b" + ",train" * (head.count(",") > 1)
        said = refusal(table(root, first, other, second, head=head))
        assert "'images/0.png' is named more than once" in said
        assert says in said

    def test_splits_that_are_unknown_or_partial(self, root):
        said = refusal(table(root, "images/0.png,a,train", "images/1.png,b,later", head="path,label,split"))
        assert "line 3: unknown split 'later'" in said
        said = refusal(table(root, "images/0.png,a,train", "images/1.png,b,", head="path,label,split"))
        assert "1 of 2 rows have no split (line 3)" in said

    def test_splits_in_the_paths(self, tmp_path):
        names = [f"{part}/{i}.png" for part in ("train", "test") for i in range(2)]
        images(tmp_path, *names)
        source = read_source(table(tmp_path, *(f"{name},{'ab'[i % 2]}" for i, name in enumerate(names))))
        assert list(source.table["split"]) == ["train", "train", "test", "test"]
        assert "train, test" in noted(source, "folders in the paths")

    def test_a_million_rows_would_take_seconds(self, root):
        n = 20_000
        path = root / "t.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "x", "y", "z"])
            writer.writerows([f"images/{i % 8}.png", "ab"[i % 2], i, i * 2, "some text"] for i in range(n))
        started = time.perf_counter()
        source = read_source(path)
        # A quiet core takes a fifth of a second.
        assert time.perf_counter() - started < 5
        assert len(source.table) == 8


class TestLost:
    def test_some_are_left_out_where_wished(self, root, monkeypatch):
        pytest.importorskip("torch")
        from signsclf.observer import Observer
        from signsclf.recipe import Recipe
        from signsclf.runs.prepare import plan, prepare

        (root / "images/3.png").unlink()
        source = read_source(table(root, *rows()))
        assert "line 5 'images/3.png'" in source.missing
        planned = plan(source, Recipe(**{**TINY, "valid_fraction": 0.0}))
        with monkeypatch.context() as patched:
            patched.setattr("signsclf.runs.prepare.decode_all", None)
            with pytest.raises(BadImageError, match=r"1 of 8 images .* line 5 'images/3.png'; .* --skip-bad"):
                prepare(planned, False, Observer())
        prepared = prepare(planned, True, Observer())
        assert [name for name, _ in prepared.skipped] == ["images/3.png"]
        assert len(prepared.split.table) == 7

    def test_check_counts_the_rest(self, root):
        (root / "images/3.png").unlink()
        result = check.check(read_source(table(root, *rows())))
        assert [name for name, _ in result.unreadable] == ["images/3.png"]
        assert not result.ok
        assert result.smallest == (12, 10)

    def test_evaluate_asks_first(self, root, monkeypatch):
        pytest.importorskip("onnxruntime")
        from signsclf.evaluation import evaluate

        (root / "images/3.png").unlink()
        monkeypatch.setattr(evaluate, "Classifier", lambda *_, **__: None)
        with pytest.raises(BadImageError, match=r"line 5 'images/3.png'.* --skip-bad"):
            evaluate.evaluate("m", table(root, *rows()))

    def test_all(self, root):
        said = refusal(table(root, "gone/x.png,a", "gone/y.png,b"))
        assert "none of its 2 images is there: line 2 'gone/x.png', line 3 'gone/y.png'; paths start at" in said


class TestFind:
    def test_names_that_are_not_exact_need_images(self, tmp_path):
        root = images(tmp_path, "cat/1.png", "dog/2.png")
        for name, head, line in (
            ("class_counts.csv", "label,images", "cat,1"),
            ("species.csv", "id,species", "1,cat"),
            ("log.csv", "file,class", "setup.py,x"),
        ):
            table(root, line, name=name, head=head)
            assert read_source(root).layout is Layout.FOLDERS
            (root / name).unlink()

    def test_a_table_that_says_what_the_folders_say(self, tmp_path):
        root = images(tmp_path, "cat/1.png", "dog/2.png")
        table(root, "cat/1.png,cat", "dog/2.png,dog", head="filename,class")
        assert read_source(root).layout is Layout.FOLDERS
        assert read_source(root, Layout.TABLE).classes == ("cat", "dog")

    def test_one_table_in_each_class_folder(self, tmp_path):
        root = images(tmp_path, "cat/1.png", "dog/2.png")
        for label, number in (("cat", 1), ("dog", 2)):
            table(root / label, f"{number}.png,{number}", head="Filename,ClassId", name=f"{label}.csv")
        assert read_source(root).classes == ("cat", "dog")

    def test_kept_apart_from_other_tables(self, root):
        table(root, *rows())
        table(root, "1,2", name="results.csv", head="epoch,loss")
        table(root, "images/0.png,x", name="other.csv", head="file,tag")
        assert read_source(root).classes == ("a", "b")

    def test_a_damaged_table_is_told(self, root):
        table(root, rows()[0], 'images/1.png,"b')
        assert "line 3: a quotation mark" in refusal(root)

    def test_several(self, root):
        table(root, *rows())
        table(root, *rows(), name="u.csv")
        said = refusal(root)
        assert "several tables with path and label: 't.csv', 'u.csv'" in said
        assert "call them train, valid and test" in said

    @pytest.mark.parametrize("archive", [False, True])
    def test_paths_that_start_above_the_table(self, root, archive):
        table(root / "annotations", *rows())
        if archive:
            shutil.make_archive(str(root.parent / "set"), "zip", root)
            root = root.parent / "set.zip"
        source = read_source(root)
        assert source.classes == ("a", "b")
        assert "not at the table's folder annotations/" in noted(source, "paths start at the source")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs rights")
    def test_a_table_that_may_not_be_read_is_told(self, root):
        table(root, *rows()).chmod(0)
        assert "t.csv: cannot be read (Permission denied)" in refusal(root)

    def test_a_table_without_labels_for_images_in_split_folders_is_told(self, tmp_path):
        images(tmp_path, "train/0.png", "train/1.png")
        table(tmp_path / "train", "0.png,a cat", "1.png,a dog", head="file_name,text", name="metadata.csv")
        assert "lacks the column label (it has: file_name, text)" in refusal(tmp_path)

    def test_files_that_are_read_when_given_are_named_beside_images(self, root):
        text(root / "README.txt", "Photos of animals.")
        assert refusal(root).endswith("a csv with the columns path and label")
        text(root / "labels.txt", "images/0.png a")
        assert "if 'labels.txt' tells the labels, give that file" in refusal(root)
        (root / "labels.txt").unlink()
        text(root / "labels.xlsx", b"PK\3\4")
        assert "'labels.xlsx' is a spreadsheet: save the sheet" in refusal(root)

    def test_images_in_an_archive_beside_the_table(self, root):
        shutil.make_archive(str(root / "images"), "zip", root / "images")
        shutil.rmtree(root / "images")
        table(root, *rows())
        assert "'images.zip' is not looked into: unpack it there" in refusal(root)

    def test_long_labels_are_shortened(self, root):
        source = read_source(table(root, *rows(classes=("a" * 900, "b" * 900))))
        assert all(len(line) < 500 for line in describe(source))

    def test_long_paths_are_shortened(self, root):
        said = refusal(table(root, *(f"{'a' * 5_000}{i}.png,{'ab'[i % 2]}" for i in range(4))))
        assert len(said) < 2_000
        assert "a'…" in said

    def test_images_that_no_row_names(self, root):
        table(root, *rows(range(6)))
        assert "(2): 'images/6.png', 'images/7.png'" in noted(read_source(root), "does not name")


class TestSplitTables:
    @pytest.mark.parametrize(
        ("names", "head"),
        [
            (("train.csv", "test.csv"), "path,label"),
            (("pets_train.csv", "pets_test.csv"), "path,label"),
            (("train_labels.csv", "test_labels.tsv"), "image,class"),
            (("Train.csv", "TEST.csv"), "filename,label"),
        ],
    )
    def test_are_the_splits(self, root, names, head):
        for name, numbers in zip(names, (range(6), range(6, 8)), strict=True):
            table(root, *rows(numbers), name=name, head=head)
        source = read_source(root)
        assert Counter(source.table["split"]) == {"train": 6, "test": 2}
        assert splits(source)["images/7.png"] == "test"
        assert splits(source)["images/0.png"] == "train"
        assert f"{names[0]} train" in noted(source, "tables are the splits")

    def test_with_validation_and_other_tables(self, root):
        for name, numbers in (("train", range(4)), ("valid", range(4, 6)), ("test", range(6, 8))):
            table(root, *rows(numbers), name=f"{name}.csv")
        table(root, *rows(), name="all.csv")
        assert splits(read_source(root))["images/4.png"] == "valid"

    def test_a_test_table_without_labels(self, root):
        table(root, *rows(range(6)), name="train.csv", head="id,breed")
        table(root, "images/6.png", "images/7.png", name="test.csv", head="id")
        table(root, "images/6.png,a", "images/7.png,a", name="sample_submission.csv", head="id,breed")
        source = read_source(root)
        assert len(source.table) == 6
        assert "'test.csv'" in noted(source, "tables without labels")

    def test_one_image_in_both(self, root):
        table(root, *rows(range(6)), name="train.csv")
        table(root, *rows(range(5, 8)), name="test.csv")
        assert "names an image of" in refusal(root)

    def test_in_split_folders(self, tmp_path):
        for part in ("train", "valid", "test"):
            images(tmp_path / part, "0.png", "1.png")
            table(tmp_path / part, "0.png,1,0", "1.png,0,1", name="_classes.csv", head="filename, cat, dog")
        text(tmp_path / "README.roboflow.txt", "made by\n")
        source = read_source(tmp_path)
        assert len(source.table) == 6
        assert labels(source)["valid/1.png"] == "dog"
        assert splits(source)["test/0.png"] == "test"

    @pytest.mark.parametrize("parts", [("train",), ("train", "test")])
    def test_metadata_of_image_folders(self, tmp_path, parts):
        for part in parts:
            images(tmp_path / part, "0.png", "1.png")
            table(tmp_path / part, "0.png,a", "1.png,b", name="metadata.csv", head="file_name,label")
        source = read_source(tmp_path)
        assert sorted(set(labels(source).values())) == ["a", "b"]
        assert len(source.table) == 2 * len(parts)
        assert len(set(source.table["split"]) - {None}) == len(parts) - 1 or len(parts) == 2

    def test_metadata_above_the_parts(self, tmp_path):
        images(tmp_path, "train/0.png", "train/1.png", "test/0.png")
        lines = ["train/0.png,a", "train/1.png,b", "test/0.png,a"]
        table(tmp_path, *lines, name="metadata.csv", head="file_name,label")
        assert splits(read_source(tmp_path)) == {"train/0.png": "train", "train/1.png": "train", "test/0.png": "test"}


def test_options_reach_the_table(root, cli):
    path = table(root, *(f"{line},{i % 4}" for i, line in enumerate(rows(classes=["x", "X"]))), head="shown,a,b")
    done = cli("data", "check", path, "--path-column", "shown", "--label-column", "a", "--merge-case", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["counts"] == {"X": {"unassigned": 8}}


def test_a_reading_is_refused_by_name(root):
    with pytest.raises(SourceError, match="--label-column: no column 'c'"):
        read_source(table(root, *rows()), Reading(label_column="c"))
