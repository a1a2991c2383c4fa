"""What HTML pages are made with: Jinja2 templates that escape whatever is put into them, elements, and pictures."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from signsclf.outputs import GENERATOR
from signsclf.text import count, visible

if TYPE_CHECKING:
    from jinja2 import Environment

PICTURE_SIDE = 96
"""Pixels of a picture's longer side in a page."""


def render_template(name: str, **values: object) -> Markup:
    """Fill a template of this package; whatever text a label or file name holds, it is shown and never obeyed.

    Each page is one file without scripts, and its content security policy forbids to fetch anything.

    Args:
        values: plain text is escaped, ``Markup`` is put in as it is.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
    """
    return Markup(_environment().get_template(name).render(**values))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("signsclf.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": lambda ends, digits=1: interval(*ends, digits)}
    environment.globals |= {"count": count, "generator": Markup(GENERATOR)}
    return environment


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """Make an element of HTML or SVG; text in it, and in its attributes, is escaped, ``Markup`` stays.

    Args:
        content: texts and elements within it.
        attributes: by name with ``_`` for ``-``, and one at the end where Python knows the word, as ``class_``.
    """
    opening = "".join(
        f' {name.removesuffix("_").replace("_", "-")}="{escape(_shown(value))}"' for name, value in attributes.items()
    )
    return Markup(f"<{tag}{opening}>{''.join(escape(_shown(part)) for part in content)}</{tag}>")


def named(label: str, note: str = "") -> Markup:
    """Make a table's cell of a label, and of what else to say of it in small letters below."""
    return Markup("").join((visible(label), element("span", note, class_="sub"))) if note else escape(visible(label))


def percent(share: float | None, digits: int = 2) -> str:
    """Give a share of 1 such as "98.47 %", kept on one line; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def interval(low: float, high: float, digits: int = 1) -> str:
    """Give two shares of 1 such as "97.9 to 98.9 %"."""
    return f"{100 * low:.{digits}f} to {percent(high, digits)}"


def picture(pixels: np.ndarray, description: str) -> Markup:
    """Put an image into the page itself, at most `PICTURE_SIDE` pixels a side.

    Args:
        pixels: uint8 (H, W, 3).
        description: plain text, for those who do not see it.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85, subsampling=0)
    return _img("jpeg", data.getvalue(), description)


def strip(images: Sequence[np.ndarray], description: str) -> Markup:
    """Put images of one size side by side, pixel for pixel."""
    data = io.BytesIO()
    Image.fromarray(np.concatenate(list(images), axis=1)).save(data, "PNG")
    return _img("png", data.getvalue(), description, class_="strip")


def png(data: bytes, description: str) -> Markup:
    """Put a PNG file's bytes into the page as they are."""
    return _img("png", data, description)


def _img(kind: str, data: bytes, description: str, class_: str = "") -> Markup:
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Markup('<img class="{}" src="{}" alt="{}">').format(class_, address, visible(description))


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else visible(value)
