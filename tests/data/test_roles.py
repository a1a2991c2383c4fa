"""Columns are known by their names, by what is in them, or by what a user says."""

from __future__ import annotations

import pytest
from smalltables import images, labels, noted, refusal, splits, text

from signsclf.choices import Reading
from signsclf.data.table import read_source


@pytest.fixture
def root(tmp_path):
    return images(tmp_path, *(f"{i}.png" for i in range(4)))


def table(root, head, *rows, name="t.csv"):
    return text(root / name, "\n".join([head, *rows]) + "\n")


@pytest.mark.parametrize(
    "head",
    [
        "image_path,class", "filename,label", "file,category", "file_name,target", "fname,labels", "image,label_name",
        "img,y", "ImagePath,ClassName", "image-file,gt", "ImageID,LabelName", "filenames,classes",
        "image_id,species", "id,breed", "Image Name,Class-Name", "PATH,class_id", "filepaths2,label",
    ],
)  # fmt: skip
def test_well_known_names(root, head):
    path = table(root, head, *(f"{i}.png,{'ab'[i % 2]}" for i in range(4)))
    if head.startswith("filepaths2"):
        assert "lacks the column path (it has: filepaths2, label)" in refusal(path)
        return
    source = read_source(path)
    assert labels(source) == {"0.png": "a", "1.png": "b", "2.png": "a", "3.png": "b"}
    if "label" not in head.split(","):
        assert head.split(",")[1] in noted(source, "columns of other names are taken")


def test_the_exact_name_wins_and_numbers_yield_to_names(root):
    path = table(root, "image,path,class,label,id", "x,0.png,c,a,1", "x,1.png,c,b,2")
    assert labels(read_source(path)) == {"0.png": "a", "1.png": "b"}
    path = table(root, "id,file_name,class_id,class", "7,0.png,3,a", "8,1.png,4,b")
    assert labels(read_source(path)) == {"0.png": "a", "1.png": "b"}


def test_rarer_names_yield_to_the_common_ones(root):
    path = table(root, "image,class,tag,variety", "0.png,a,x,v", "1.png,b,y,w")
    assert labels(read_source(path)) == {"0.png": "a", "1.png": "b"}


def test_a_column_of_addresses(root):
    said = refusal(table(root, "url,label", "https://a.example/0.png,a", "https://a.example/1.png,b"))
    assert "at web addresses, first line 2" in said


def test_several_that_could_be_it(root):
    path = table(root, "path,class,species", "0.png,a,x", "1.png,b,y")
    assert "the label may be in 'class' and 'species'; say which with --label-column" in refusal(path)
    assert labels(read_source(path, Reading(label_column="Species"))) == {"0.png": "x", "1.png": "y"}
    assert labels(read_source(path, Reading(label_column="2"))) == {"0.png": "a", "1.png": "b"}


def test_columns_that_a_user_chooses(root):
    path = table(root, "shown,seen", "0.png,a", "1.png,b")
    said = refusal(path)
    assert "lacks the column path and label (it has: shown, seen)" in said
    assert "--path-column and --label-column" in said
    assert labels(read_source(path, Reading(path_column="shown", label_column="seen"))) == {"0.png": "a", "1.png": "b"}
    assert "no column 'sene' (it has: shown, seen)" in refusal(path, path_column="shown", label_column="sene")
    assert "(it has: path)" in refusal(table(root, "path", "0.png"))
    assert "no separator was recognised" in refusal(table(root, "path#label", "0.png#a"))


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["0.png,a", "1.png,b"], {"0.png": "a", "1.png": "b"}),
        (["a;0.png", "b;1.png"], {"0.png": "a", "1.png": "b"}),
        (["./0.png 1", "./1.png 2"], {"0.png": "1", "1.png": "2"}),
    ],
)
def test_without_a_header(root, lines, wanted):
    source = read_source(text(root / "t.csv", "\n".join(lines)))
    assert labels(source) == wanted
    assert "label from column" in noted(source, "no header")


def test_without_a_header_with_more_columns(root):
    lines = ["0.png,a,train,x", "1.png,b,train,x", "2.png,a,valid,x"]
    path = text(root / "t.csv", "\n".join(lines))
    assert "no header and 2 columns beside the image; say which" in refusal(path)
    source = read_source(path, Reading(label_column="2"))
    assert labels(source) == {"0.png": "a", "1.png": "b", "2.png": "a"}
    assert splits(source) == {"0.png": "train", "1.png": "train", "2.png": "valid"}
    assert "no column beside the image" in refusal(text(root / "u.csv", "0.png\n1.png\n"))


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("is_valid", ["True", "False"], ["valid", "train"]),
        ("valid", ["1", "0"], ["valid", "train"]),
        ("is_test", ["1.0", "0.0"], ["test", "train"]),
        ("is_train", ["TRUE", "FALSE"], ["train", "valid"]),
        ("is_valid", ["yes", ""], ["valid", "train"]),
        ("subset", ["Train", "testing"], ["train", "test"]),
        ("phase", ["val", "train"], ["valid", "train"]),
        ("DataSet", ["test", "train"], ["test", "train"]),
        ("split", ["val", "train"], ["valid", "train"]),
    ],
)
def test_columns_that_are_the_split(root, name, values, wanted):
    rows = [f"{i}.png,{'ab'[i // 2]},{values[i % 2]}" for i in range(4)]
    source = read_source(table(root, f"path,label,{name}", *rows))
    assert [splits(source)[f"{i}.png"] for i in range(2)] == wanted
    if name != "split":
        assert any(repr(name) in note for note in source.notes)


def test_valid_and_test_beside_one_another(root):
    rows = ["0.png,a,0,0", "1.png,a,1,0", "2.png,a,0,1", "3.png,a,0,0"]
    source = read_source(table(root, "path,label,is_valid,is_test", *rows))
    assert list(splits(source).values()) == ["train", "valid", "test", "train"]


def test_a_split_that_is_neither_true_nor_false(root):
    said = refusal(table(root, "path,label,is_valid", "0.png,a,True", "1.png,b,maybe"))
    assert "line 3: is_valid is 'maybe', where it should be true or false" in said


def test_other_names_of_a_split_are_one_only_if_nothing_else_is_in_them(root):
    source = read_source(table(root, "path,label,set", "0.png,a,train", "1.png,b,blue"))
    assert set(source.table["split"]) == {None}
    assert "'set' (only 'blue' and 'train')" in noted(source, "columns that are not used")


def test_columns_that_are_not_used_are_named(root):
    rows = [f"{i}.png,a,{i % 2},{i}" for i in range(4)]
    source = read_source(table(root, "path,label,holdout,width", *rows))
    assert noted(source, "not used") == "columns that are not used (2): 'holdout' (only '0' and '1'), 'width'"


def test_one_column_for_each_class(root):
    rows = ["0.png,1,0,0", "1.png,0,1.0,0", "2.png,0,0,True"]
    source = read_source(table(root, "filename, cat, red dog,owl", *rows))
    assert labels(source) == {"0.png": "cat", "1.png": "red dog", "2.png": "owl"}
    assert "'cat', 'red dog', 'owl'" in noted(source, "columns of 0 and 1 are the classes (3)")


def test_several_or_none_of_one_columns(root):
    said = refusal(table(root, "filename,cat,dog", "0.png,1,0", "1.png,1,1"))
    assert "line 3 is of 'cat' and of 'dog'; a classifier takes one label each" in said
    said = refusal(table(root, "filename,cat,dog", "0.png,1,0", "1.png,0,0"))
    assert "line 3: no label, as none of the columns 'cat', 'dog' is 1" in said
