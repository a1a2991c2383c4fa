"""The report of a tiny model in a browser, as people see it: headless Chromium at two widths, light and dark."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tinysource import CLASSES, draw_shape, draw_source

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Every text that shows, with its contrast against what lies behind it (WCAG 2.1) and its height in pixels.
TEXTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  // A matrix's numbers stand on a cell that the page shines through.
  const under = (element) => {
    const cell = element.closest("g")?.querySelector("rect[fill-opacity]"), page = behind(element);
    if (!cell) return page;
    const style = getComputedStyle(cell), depth = Number(style.fillOpacity);
    return channels(style.fill).map((v, i) => depth * v + (1 - depth) * page[i]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, words = walker.currentNode.data.trim();
    if (!words || element.tagName === "title" || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = light(channels(element.closest("svg") ? style.fill : style.color));
    const paper = light(under(element));
    found.push({words, contrast: (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05),
                height: element.getBoundingClientRect().height, turned: !!element.getAttribute("transform")});
  }
  return found;
}"""
# What reaches over the page's edge and has no scrolling box of its own.
OUTSIDE = """() => [...document.querySelectorAll("main *")]
  .filter((e) => !e.closest(".wide") && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map((e) => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def page_file(model, tmp_path_factory) -> Path:
    """The whole report of a tiny model that makes mistakes, one class with a name too long for a phone."""
    from signsclf.evaluation.evaluate import evaluate
    from signsclf.evaluation.report import examine, write_evaluation

    root = tmp_path_factory.mktemp("page")
    hard = draw_source(root / f"shapes_{'that_are_hard_to_tell_apart_' * 4}", tracks=4, seed=3)
    rng = np.random.default_rng(0)
    for path in sorted(hard.rglob("*.png"))[::2]:
        with Image.open(path) as image:
            Image.fromarray((np.asarray(image) // 3 + rng.integers(0, 170, (20, 20, 3))).astype(np.uint8)).save(path)
    (root / "others").mkdir()
    for i in range(6):
        draw_shape(i % len(CLASSES), rng, 40).rotate(45).save(root / "others" / f"{i}.png")
    judged = evaluate(model, hard)
    write_evaluation(examine(judged, robust=True, unknown=root / "others", audit=True), root / "report")
    return root / "report" / "report.html"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium found; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Chromium has no sandbox for root, as whom continuous integration runs.
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        running = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=str)
def opened(request, browser, page_file):
    """(page, what its console said) at a width and colour scheme; anything asked of a network fails the test."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or said.append(asked.url))
    page.goto(page_file.as_uri())
    yield page, said
    context.close()


def test_nothing_overflows_and_nothing_is_complained_of(opened):
    page, said = opened
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(OUTSIDE) == []


def test_all_sections_and_pictures_are_there(opened):
    page, _ = opened
    heads = page.locator("h2").all_inner_texts()
    performance, trust = ["Classes", "Confusion", "Mistakes"], ["Confidence", "Robustness"]
    assert heads == [*performance, *trust, "Out-of-distribution images", "Labels"]
    assert page.locator("nav a").all_inner_texts() == heads
    assert page.locator("img").count() > 20
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")


def test_every_text_can_be_read(opened):
    page, _ = opened
    texts = page.evaluate(TEXTS)
    assert len(texts) > 200
    assert [text for text in texts if text["contrast"] < 4.5] == []
    # Letters turned on their side are as high as the word is long.
    assert [text for text in texts if text["height"] < 9 and not text["turned"]] == []


def test_it_follows_the_colour_scheme(browser, page_file):
    papers = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(page_file.as_uri())
        papers[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.close()
    assert papers["light"] == "rgb(255, 255, 255)" != papers["dark"]
