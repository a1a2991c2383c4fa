"""Make docs/images: what report.html, `signsclf predict` and the page of `signsclf serve` look like, on rendered
signs, in headless Chromium.

    python scripts/make_pictures.py

Needs the extra dev and Chromium (Debian: apt-get install chromium). Nothing but the package makes the images in the
pictures, so that no photograph of anybody's is shown.
"""

from __future__ import annotations

import html
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
COLORS = 128
"""In a palette, which keeps a picture of text and charts below some 150 kB."""
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
  body { margin: 0; background: #fff; }
  main { display: flex; gap: 24px; align-items: center; width: max-content; padding: 20px 28px;
         background: #1d2430; color: #e8ebf0; }
  img { width: 128px; height: 128px; image-rendering: pixelated; border-radius: 6px; }
  pre { margin: 0; font: 15px/1.45 "DejaVu Sans Mono", monospace; }
  b { color: #9fd08a; font-weight: normal; }
</style><main><img src="%s"><pre><b>$ %s</b>
%s</pre></main>"""


def run(*arguments: str, cwd: Path) -> str:
    """What `signsclf` says to these arguments, on standard error and output."""
    command = [sys.executable, "-m", "signsclf", *arguments]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return done.stderr + done.stdout


def keep(png: bytes, name: str, colors: int = COLORS) -> None:
    """Write a screenshot with a palette to docs/images."""
    IMAGES.mkdir(exist_ok=True)
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(colors, dither=Image.Dither.NONE)
    picture.save(IMAGES / name, optimize=True)
    print(f"{IMAGES / name}: {picture.width}×{picture.height}, {(IMAGES / name).stat().st_size:,} bytes")


def predict_picture(browser: Browser, scratch: Path) -> None:
    """The command, its answer, and the rendered sign that it looked at."""
    answer = run("predict", "sign.png", cwd=scratch)
    shown = html.escape(answer[answer.index("sign.png\n") :].rstrip())
    (scratch / "predict.html").write_text(TERMINAL % ("sign.png", "signsclf predict sign.png", shown), encoding="utf-8")
    page = browser.new_page(device_scale_factor=2)
    page.goto((scratch / "predict.html").as_uri())
    keep(page.locator("main").screenshot(), "predict.png")


def report_picture(browser: Browser, scratch: Path) -> None:
    """The top of the report of the ready-made model on rendered signs of another seed than its training's."""
    run("evaluate", str(ROOT / "models" / "gtsrb-signnet"), "signs", "--report", "report", cwd=scratch)
    page = browser.new_page(viewport={"width": 1100, "height": 1500})
    page.goto((scratch / "report" / "report.html").as_uri())
    keep(page.screenshot(), "report.png")


@contextmanager
def served() -> Iterator[str]:
    """The address of `signsclf serve` with the ready-made model, while the block runs."""
    command = [sys.executable, "-m", "signsclf", "serve", str(ROOT / "models" / "gtsrb-signnet"), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.:]+", line)))
    finally:
        server.terminate()
        server.communicate()


def serve_picture(browser: Browser) -> None:
    """The page of the server with its own samples, the first of them with its heat map."""
    with served() as url:
        page = browser.new_page(viewport={"width": 1180, "height": 900}, locale="en-GB")
        page.goto(url)
        samples = page.locator("#samples button")
        samples.first.wait_for()
        for number in range(samples.count()):
            samples.nth(number).dispatch_event("click")
        page.locator("#going").wait_for(state="hidden")
        page.locator("#rows button").first.click()
        page.locator("#heat-toggle").click()
        page.locator("#heat").wait_for()
        page.mouse.move(0, 0)
        page.locator("#verdict").evaluate("(element) => element.blur()")
        page.locator("#meta").evaluate("(element) => (element.hidden = true)")  # a time, of whatever machine this is
        keep(page.screenshot(full_page=True), "serve.png", 256)
        page.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        scratch = Path(folder)
        run("data", "render", "signs", "--per-class", "10", "--size", "20:48", "--seed", "2024", cwd=scratch)
        run("data", "render", "one", "--per-class", "1", "--size", "64:64", "--seed", "7", cwd=scratch)
        shutil.copy(scratch / "one" / "00014" / "00000_00000.png", scratch / "sign.png")
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        predict_picture(browser, scratch)
        report_picture(browser, scratch)
        serve_picture(browser)
        browser.close()


if __name__ == "__main__":
    main()
