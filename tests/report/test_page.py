"""What pages are made with escapes text by itself, wherever it is put."""

from __future__ import annotations

import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from signsclf.report.html.page import element, named, picture, render_template

HARM = "\"><script>alert('x')</script>\x1b[31m\u202e"
SHOWN = "&#34;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\\x1b[31m\\u202e"


def test_an_element_escapes_its_text_and_its_attributes():
    assert element("text", HARM, aria_label=HARM) == f'<text aria-label="{SHOWN}">{SHOWN}</text>'
    assert element("g", element("path", d="M0 0"), class_="a") == '<g class="a"><path d="M0 0"></path></g>'


def test_a_cell_and_a_picture_escape_what_they_are_called():
    assert named(HARM, HARM) == f'{SHOWN}<span class="sub">{SHOWN}</span>'
    assert f'alt="{SHOWN}">' in picture(np.zeros((4, 4, 3), np.uint8), HARM)


def test_a_template_escapes_text_and_keeps_markup():
    values = {"title": HARM, "caption": HARM, "heads": (HARM, "n"), "rows": [(HARM, "1")], "n_valid": 1_000}
    page = render_template("comparison.html", **values, picture=element("svg"), footer=HARM)
    assert page.count(SHOWN) == 6
    assert "<svg></svg>" in page and "1,000 held-out" in page
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert isinstance(page, Markup)


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="caption"):
        render_template("comparison.html", title="t", heads=(), rows=(), n_valid=1, picture="", footer="")
