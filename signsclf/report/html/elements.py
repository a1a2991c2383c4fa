"""A page in one file: its frame, its style in light, dark and print, and the pieces that it is made of. No script."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from signsclf.outputs import GENERATOR
from signsclf.text import visible

PICTURE_SIDE = 96

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --panel: #f4f6f8; --ink: #1b1f24; --soft: #57606a; --line: #d4dae0;
  --blue: #005fa3; --orange: #b34a00; --green: #0a7350; --grid: #e7ebef; --warn: #fff6e0; --warnline: #d9a32b; }
@media (prefers-color-scheme: dark) { :root { --paper: #13171b; --panel: #1c2127; --ink: #e7eaee; --soft: #a6b0ba;
  --line: #363e47; --blue: #71b7f2; --orange: #f5a066; --green: #55c99a; --grid: #2a3138; --warn: #2d2716;
  --warnline: #a8812a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 56px; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.3rem; margin: 52px 0 10px; padding-top: 14px; border-top: 2px solid var(--line); }
h3 { font-size: 1.02rem; margin: 26px 0 8px; }
p { margin: 8px 0; max-width: 76ch; }
a { color: var(--blue); }
.soft, caption, figcaption, .sub { color: var(--soft); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 18px 0 0; font-size: .9375rem; }
.warn { background: var(--warn); border-left: 4px solid var(--warnline); padding: 8px 14px; margin: 14px 0;
  max-width: none; border-radius: 0 6px 6px 0; }
.hero { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 16px; margin: 22px 0 4px; }
.hero b { font-size: 3.1rem; line-height: 1.1; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 16px 0; }
.tile { background: var(--panel); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: .8125rem; }
.wide { overflow-x: auto; max-width: 100%; margin: 8px 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 6px; }
th, td { padding: 4px 16px 4px 0; text-align: left; vertical-align: middle; border-bottom: 1px solid var(--grid); }
th { color: var(--soft); font-weight: 600; font-size: .8125rem; vertical-align: bottom;
  border-bottom-color: var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; }
td.name { min-width: 7.5rem; }
td .sub { display: block; line-height: 1.35; }
.cols { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 8px 36px;
  align-items: start; }
figure { margin: 12px 0; }
svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--ink); font-family: inherit; }
svg .faint { fill: var(--soft); }
.plot { max-width: 520px; width: 100%; }
.wide svg { max-width: none; }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr)); gap: 14px 20px; }
.small figure { margin: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 216px), 1fr)); gap: 14px;
  padding: 0; margin: 12px 0; list-style: none; }
.cards.narrow { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); }
.card, h1 { overflow-wrap: anywhere; }
.card { background: var(--panel); border-radius: 8px; padding: 10px; font-size: .8438rem; line-height: 1.35;
  break-inside: avoid; }
.card .pictures { display: flex; gap: 6px; margin-bottom: 8px; }
.card .pictures div { flex: 0 1 96px; min-width: 0; }
.card .pictures span { display: block; color: var(--soft); font-size: .75rem; }
.card img { display: block; width: 100%; max-width: 96px; aspect-ratio: 1; object-fit: contain; background: var(--grid);
  border-radius: 4px; }
.true { color: var(--blue); } .wrong { color: var(--orange); } .right { color: var(--green); }
.strip { width: 100%; max-width: 384px; image-rendering: pixelated; display: block; border-radius: 4px; }
footer { margin-top: 56px; padding-top: 12px; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .875rem; }
@media (max-width: 560px) { main { padding: 18px 14px 40px; } h1 { font-size: 1.35rem; } .hero b { font-size: 2.5rem; }
  .drawn { display: none; } table { font-size: .8438rem; }
  th, td { padding-right: 10px; } td.name { min-width: 6.5rem; }
  .cards { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
  .cards.narrow { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); } }
@page { margin: 14mm; }
@media print { :root { color-scheme: light; --paper: #fff; --panel: #f4f6f8; --ink: #000; --soft: #444; --line: #bbb;
  --blue: #005fa3; --orange: #b34a00; --green: #0a7350; --grid: #ddd; --warn: #fff6e0; --warnline: #d9a32b; }
  body { font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; } nav { display: none; } .wide { overflow: visible; }
  .wide svg { max-width: 100%; } h2, h3, h2 + p, h3 + p, caption { break-after: avoid; }
  figure, tr, .tile, .warn { break-inside: avoid; } }
"""


def page(title: str, body: Iterable[str], footer: str) -> str:
    """A whole HTML document; ``title`` and ``footer`` are plain text, ``body`` is HTML.

    A content security policy forbids scripts and whatever would be fetched from elsewhere.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        "<!doctype html>\n"
        f'<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n<title>{text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n<footer>{text(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Plain text as HTML: whatever a label or file name holds, it is shown and never obeyed."""
    return html.escape(visible(str(value)))


def percent(share: float | None, digits: int = 2) -> str:
    """Such as "98.47 %", kept on one line; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def interval(low: float, high: float, digits: int = 1) -> str:
    """Such as "97.9 to 98.9 %"."""
    return f"{100 * low:.{digits}f} to {percent(high, digits)}"


def named(label: str, note: str = "") -> str:
    """A table's cell: a label, and small below it what else to say of it."""
    return text(label) + (f'<span class="sub">{text(note)}</span>' if note else "")


def paragraph(words: str, kind: str = "") -> str:
    """Plain text as a paragraph, of a CSS class."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Sequence[int] = (),
    caption: str = "",
    drawn: int | None = None,
) -> str:
    """A table that scrolls within itself where it is too wide.

    Args:
        heads: plain text.
        rows: cells as HTML.
        numbers: columns, from 0, that are set to the right.
        caption: plain text.
        drawn: a column that shows what others say in figures, and so is left out where there is little room.
    """

    def cells(tag: str, values: Sequence[str]) -> str:
        kinds = ["n" if i in numbers else "name" if i == 0 else "drawn" * (i == drawn) for i in range(len(values))]
        return "".join(
            f'<{tag} class="{kind}">{value}</{tag}>' if kind else f"<{tag}>{value}</{tag}>"
            for kind, value in zip(kinds, values, strict=True)
        )

    above = f"<caption>{text(caption)}</caption>" if caption else ""
    head = "".join(f"<tr>{cells('th', [text(value) for value in heads])}</tr>")
    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{above}<thead>{head}</thead><tbody>\n{body}\n</tbody></table></div>'


def picture(pixels: np.ndarray, description: str) -> str:
    """An image in the page itself, at most `PICTURE_SIDE` pixels a side.

    Args:
        pixels: uint8 (H, W, 3).
        description: plain text, for those who do not see it.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return f'<img src="{_data(image, "JPEG", quality=85, subsampling=0)}" alt="{text(description)}">'


def strip(images: Sequence[np.ndarray], description: str) -> str:
    """Images of one size side by side, pixel for pixel."""
    image = Image.fromarray(np.concatenate(list(images), axis=1))
    return f'<img class="strip" src="{_data(image, "PNG")}" alt="{text(description)}">'


def card(pictures: Sequence[tuple[str, str]], lines: Sequence[str]) -> str:
    """Pictures with a word below each, and lines of HTML below them all."""
    shown = "".join(f"<div>{image}<span>{text(word)}</span></div>" for image, word in pictures)
    said = "<br>".join(lines)
    return f'<li class="card"><div class="pictures">{shown}</div>{said}</li>'


def cards(entries: Iterable[str], narrow: bool = False) -> str:
    """Cards in as many columns as there is room for."""
    return f'<ul class="cards{" narrow" if narrow else ""}">\n' + "\n".join(entries) + "\n</ul>"


def _data(image: Image.Image, kind: str, **settings: object) -> str:
    data = io.BytesIO()
    image.save(data, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
