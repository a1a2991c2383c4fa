from __future__ import annotations

import os
import unicodedata

import pytest

from signsclf.text import columns, count, decoded, expand_braces, file_text, fitted, natural_key, short, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("stop\x1b[31m", "stop\\x1b[31m"),
        ("a\x07\r\n\tb\x00", "a\\x07\\r\\n\\tb\\x00"),
        ("\x7f\x9b31m\x85", "\\x7f\\x9b31m\\x85"),
        ("go\u202egpj", "go\\u202egpj"),
        ("\u200e\u200f\u2066\u2069\ufeff\u00ad", "\\u200e\\u200f\\u2066\\u2069\\ufeff\\xad"),
        ("one\u2028two\u2029", "one\\u2028two\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("odd\udcff.png", "odd\\udcff.png"),
        ("sto\u200dp", "sto\\u200dp"),
        ("停止 قف หยุด क्‍ष 👨\u200d👩 نمی\u200cخواهم é ß", None),
        ("C:\\photos\\a.png", None),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_escaped_and_all_else_stays(text, shown):
    assert visible(text) == (text if shown is None else shown)


def test_nothing_that_moves_recolours_or_hides_is_left():
    everything = visible("".join(map(chr, range(0x11_0000))))
    seen = frozenset(
        "\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
    )
    left = {letter for letter in everything if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert left <= seen
    everything.encode()


def test_other_things_than_text_are_taken_as_print_takes_them(tmp_path):
    assert visible(tmp_path) == str(tmp_path)
    assert visible(3) == "3"


def test_bytes_of_names_that_the_locale_could_not_decode_are_read_as_utf8():
    assert decoded("\udcc3\udcbc.png and \udcff") == "ü.png and \udcff"
    assert visible("\udcc3\udcbc\udce9") == "ü\\udce9"
    name = os.fsdecode("Straße/ü.png".encode())
    assert file_text(name) == "Straße/ü.png"
    assert file_text("odd\udcff") == "odd\udcff"


def test_names_under_a_latin_1_locale(monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("latin-1"))
    assert file_text("Ã¼.png") == "ü.png"
    assert file_text("caf\xe9") == "caf\xe9"
    assert file_text("停") == "停"


def test_columns_of_a_terminal():
    assert [columns(text) for text in ("stop", "停止", "e\u0301", "หยุด", "🚸", "한", "")] == [4, 4, 1, 3, 2, 2, 0]


@pytest.mark.parametrize(
    "text", ["stop", "停止", "前方優先道路です", "หยุด", "🚸 children", "a\x1bb", "priority road ahead"]
)
@pytest.mark.parametrize("width", [1, 2, 7, 8, 20])
def test_fitted_text_has_just_that_many_columns(text, width):
    assert columns(fitted(text, width)) == width


def test_fitted_text_is_cut_only_where_it_must_be():
    assert fitted("停止", 5) == "停止 "
    assert fitted("停止優先", 5) == "停止…"
    assert fitted("停止優先", 6) == "停止… "


def test_short_and_count():
    assert short("a" * 50) == "a" * 43 + "…"
    assert short("b\x1b", 4) == "b\\x…"
    assert (count(1, "image"), count(1234, "image"), count(2, "class", "classes")) == (
        "1 image",
        "1,234 images",
        "2 classes",
    )


def test_natural_order():
    names = ["b", "a10", "a9", "A9b", "a009", "a", "a1000000000000000000000", "10", "9", "", "a9.1"]
    assert sorted(names, key=natural_key) == [
        "", "9", "10", "a", "a009", "a9", "a9.1", "A9b", "a10", "a1000000000000000000000", "b",
    ]  # fmt: skip
    natural_key("9" * 100_000)


def test_braces_are_expanded_as_bash_does():
    assert expand_braces("s-{008..010}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    for plain in ("a.tar", "{a}", "{1..x}", "{3..1}", "{0..99999999}", "{0..99999}{0..99999}", "{}{{"):
        assert expand_braces(plain) == [plain]
