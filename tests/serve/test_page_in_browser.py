"""The page at / as people use it: in Chromium, by pointer and by keys, in both languages, checked by axe-core."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from serving import FIXED, end, png, run_in_thread, write_model

from signsclf.choices import Format
from signsclf.inference.classifier import Classifier
from signsclf.inference.writers import write
from signsclf.serve.models import Models, load_model
from signsclf.serve.service import Service
from signsclf.serve.settings import ServeSettings

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = [pytest.mark.serve, pytest.mark.browser]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "a-token-of-sixteen"
MIXED = (140, 120, 115)
"""A colour that the model is not sure of."""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SMALL = """() => [...document.querySelectorAll("button, input, select, summary")].filter((e) => {
  const { width, height } = e.getBoundingClientRect();
  return width && (width < 24 || height < 24);
}).map((e) => e.outerHTML)"""
DROP = """([type, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files)
    data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type: "image/png" }));
  const event = type === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
    : new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of three colours, which has two samples."""
    made = write_model(tmp_path_factory.mktemp("page") / "colours")
    (made / "run" / "samples").mkdir()
    for colour in ("red", "green"):
        (made / "run" / "samples" / f"{colour}.png").write_bytes(png(colour, (40, 30)))
    return made


@pytest.fixture(scope="module")
def served(folder):
    models = Models([load_model(folder, "colours", max_batch=8), load_model(folder, "other", max_batch=8)])
    running, thread = run_in_thread(Service(models, ServeSettings(**FIXED)))
    yield running
    end(running, thread)


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium found; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        # Chromium has no sandbox for root, as whom continuous integration runs.
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")
        running = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@contextmanager
def opened(chromium, url, **options):
    """The page in a browser context of its own. What it should not do fails the test: violations of its policy, errors,
    and requests to another place."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options})
    context.set_default_timeout(10_000)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith((url, "blob:" + url)) or wrong.append(asked.url))

    def hear(message):
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            wrong.append(message.text)

    page.on("console", hear)
    page.on("filechooser", lambda _: None)  # from the start: else an early one may open the system's own dialog
    page.goto(url)
    yield page
    context.close()
    assert wrong == []


@pytest.fixture
def page(chromium, served):
    with opened(chromium, served.url) as shown:
        expect(shown.locator("#samples button")).to_have_count(2)
        yield shown


def file(name, colour="red", size=(40, 30)):
    return {"name": name, "mimeType": "image/png", "buffer": png(colour, size)}


def choose(page, *files):
    page.locator("#files").set_input_files(list(files))
    expect(page.locator("#going")).to_be_hidden()


def four(page):
    """An accepted, a rejected, an unreadable and another accepted image."""
    choose(
        page,
        file("one.png"),
        file("two.png", MIXED),
        {**file("three.png"), "buffer": png()[:50]},
        file("ten.png", "blue"),
    )
    expect(page.locator("#list-title")).to_contain_text("4 ")


def names(page):
    return page.locator("#rows tr td:first-child").all_inner_texts()


@pytest.fixture
def received(served, monkeypatch):
    """The images that reach the server, as bytes."""
    found, classify_all = [], served.service.classify_all

    def record(images, **options):
        found.extend(bytes(data) for data, _ in images)
        return classify_all(images, **options)

    monkeypatch.setattr(served.service, "classify_all", record)
    return found


def verdict(page, text):
    expect(page.locator("#verdict")).to_contain_text(text)


# What it says


def test_an_image_gets_its_verdict_in_words_and_a_table_of_classes(page):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose images").click()
    chooser.value.set_files([file("a stop.png")])
    verdict(page, "red, ")
    assert page.locator("#verdict").inner_text().replace("\xa0", " ").endswith("accepted")
    assert page.get_by_role("row").all_inner_texts()[1].startswith("red")
    assert page.get_by_role("rowheader").count() == 3
    expect(page.locator("#key")).to_have_text("Accepted from 90.00\xa0%")
    # The line of the threshold lies at 90 % of each bar.
    track, line = (page.locator(part).first.bounding_box() for part in (".track", ".line"))
    assert line["x"] == pytest.approx(track["x"] + 0.9 * track["width"], abs=1.5)
    expect(page.locator("#spoken")).to_contain_text("red, ")
    assert page.locator("#list").is_hidden()


def test_an_image_below_the_threshold_is_not_confident_enough(page):
    choose(page, file("grey.png", MIXED))
    expect(page.locator("#verdict")).to_have_text("Not confident enough: below 90.00\xa0%")
    expect(page.locator("#because")).to_contain_text("Most probable: red, ")


def test_an_unreadable_image_says_why_where_it_stands_and_can_be_sent_again(page):
    four(page)
    row = page.get_by_role("row", name="three.png")
    expect(row).to_contain_text("damaged or truncated")
    row.click()
    verdict(page, "damaged or truncated")
    assert page.locator("#verdict").get_attribute("lang") == "en"
    with page.expect_response("**/predict*") as answer:
        page.get_by_role("button", name="Try again").click()
    assert answer.value.status == 422


def test_what_the_browser_cannot_show_is_classified_all_the_same(page):
    data = io.BytesIO()
    Image.new("RGB", (10, 10), "blue").save(data, "TIFF")
    choose(page, {"name": "b.tif", "mimeType": "image/tiff", "buffer": data.getvalue()})
    verdict(page, "blue, ")
    expect(page.locator("#blank")).to_be_visible()
    expect(page.get_by_role("button", name="Crop")).to_be_disabled()


def test_many_images_are_sorted_filtered_and_exported_as_predict_writes_them(page, folder, tmp_path, monkeypatch):
    four(page)
    assert names(page) == ["one.png", "two.png", "three.png", "ten.png"]
    page.get_by_role("button", name="Image", exact=True).click()
    assert names(page) == ["one.png", "ten.png", "three.png", "two.png"]
    probability = page.locator("#heads").get_by_role("columnheader", name="Probability")
    probability.get_by_role("button").click()
    probability.get_by_role("button").click()
    expect(probability).to_have_attribute("aria-sort", "descending")
    assert names(page)[-2:] == ["two.png", "three.png"]
    page.get_by_role("button", name="Rejected 1").click()
    assert names(page) == ["two.png"]
    page.get_by_role("button", name="Errors 1").click()
    assert names(page) == ["three.png"]
    page.get_by_role("button", name="All 4").click()
    page.get_by_role("button", name="Image", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    found = Path(download.value.path()).read_text("utf-8").splitlines()
    # Each file by itself, as the page sends it: in a batch the last bit of a probability may differ.
    classifier, sink = Classifier(folder), io.StringIO()
    monkeypatch.chdir(tmp_path)
    for name, colour in (("one.png", "red"), ("ten.png", "blue"), ("two.png", MIXED)):
        Path(name).write_bytes(png(colour, (40, 30)))
    write((classifier.predict(name) for name in ("one.png", "ten.png", "two.png")), sink, Format.CSV, 3)
    assert [found[0], found[1], found[2], found[4]] == sink.getvalue().splitlines()
    assert found[3].startswith("three.png,,,,,damaged or truncated")


# What it sends


def test_a_crop_sends_the_file_itself_and_the_roi(page, received):
    sent = file("wide.png", "green", (80, 60))
    choose(page, sent)
    verdict(page, "green")
    with page.expect_request("**/predict*roi=*") as asked:
        page.get_by_role("button", name="Crop").click()
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("ArrowRight")
    assert asked.value.url.endswith("roi=1,0,79,59")
    with page.expect_request("**/predict*") as asked:
        page.get_by_label("Right").fill("40")
        page.keyboard.press("Tab")
    assert asked.value.url.endswith("roi=1,0,40,59")
    page.get_by_label("Bottom").fill("60")
    page.keyboard.press("Tab")
    expect(page.locator("#crop-wrong")).to_contain_text("within 0 to 59")
    expect(page.get_by_label("Bottom")).to_have_attribute("aria-invalid", "true")
    area = page.locator("#crop").bounding_box()
    at = lambda x, y: (area["x"] + area["width"] * x, area["y"] + area["height"] * y)  # noqa: E731
    page.mouse.move(*at(0.755, 0.255))
    page.mouse.down()
    page.mouse.move(*at(0.8, 0.3))
    with page.expect_request("**/predict*") as asked:
        page.mouse.move(*at(0.9055, 0.505))
        page.mouse.up()
    assert asked.value.url.endswith("roi=60,15,72,30")
    expect(page.locator("#caption")).to_contain_text("cropped to 60, 15, 72, 30")
    assert page.locator("#curl").text_content().endswith("/predict?roi=60,15,72,30'")
    with page.expect_request("**/predict*") as asked:
        page.get_by_role("button", name="Use the whole image").click()
    assert asked.value.url.endswith("/predict?model=colours")
    asked.value.response()
    assert len(received) == 5 and set(received) == {sent["buffer"]}


def test_the_heat_map_lies_over_the_image(page):
    choose(page, file("a.png", "green"))
    verdict(page, "green")
    toggle = page.get_by_role("button", name="Heat map")
    with page.expect_response("**/predict*explain=1*") as answer:
        toggle.click()
    heat = answer.value.json()["predictions"][0]["heat"]
    assert len(heat) == 6 and len(heat[0]) == 8
    expect(toggle).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#heat")).to_be_visible()
    image, canvas = (page.locator(part).bounding_box() for part in ("#preview", "#heat"))
    assert canvas == pytest.approx(image, abs=1)
    shade = page.locator("#heat").evaluate("(c) => [...c.getContext('2d').getImageData(9, 9, 1, 1).data]")
    assert shade == [252, 255, 164, 255]  # evenly green: the strongest evidence everywhere
    page.get_by_label("Opacity").fill("20")
    expect(page.locator("#heat")).to_have_css("opacity", "0.2")
    toggle.click()
    expect(page.locator("#heat")).to_be_hidden()


def test_images_come_by_paste_drop_and_sample(page):
    encoded = base64.b64encode(png("blue", (40, 30))).decode()
    page.evaluate(DROP, ["paste", [["image.png", encoded]]])
    expect(page.locator("#caption")).to_have_text("pasted 1.png · 40 × 30")
    verdict(page, "blue")
    page.evaluate(DROP, ["dragenter", [["x.png", encoded]]])
    expect(page.locator("#dropping")).to_be_visible()
    page.evaluate(DROP, ["drop", [["x.png", encoded], ["y.png", encoded]]])
    expect(page.locator("#dropping")).to_be_hidden()
    expect(page.locator("#list-title")).to_have_text("3 images")
    page.get_by_role("button", name="Remove all").click()
    page.get_by_role("button", name="Sample: green").click()
    verdict(page, "green")
    page.evaluate(DROP, ["paste", []])
    expect(page.locator("#status")).to_have_text("There is no image in the clipboard.")


def test_a_folder_that_is_dropped_gives_its_images(page, tmp_path):
    for name in ("ten 10.png", "ten 9.png", "below/one.png", "notes.txt"):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_bytes(png("red", (40, 30)))
    data = {"items": [], "files": [str(tmp_path / "all")], "dragOperationsMask": 1}
    for step in ("dragEnter", "dragOver", "drop"):
        session = page.context.new_cdp_session(page)
        session.send("Input.dispatchDragEvent", {"type": step, "x": 300, "y": 300, "data": data})
    expect(page.locator("#list-title")).to_have_text("3 images")
    assert names(page) == ["all/below/one.png", "all/ten 9.png", "all/ten 10.png"]
    expect(page.locator("#status")).to_have_text("Left out, as no images: 1 files")


def test_the_paste_button_reads_the_clipboard(page, served):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served.url)
    page.evaluate(
        "text => fetch('icon.svg') && navigator.clipboard.write([new ClipboardItem({ 'image/png':"
        " new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], { type: 'image/png' }) })])",
        base64.b64encode(png("red", (40, 30))).decode(),
    )
    page.get_by_role("button", name="Paste").click()
    verdict(page, "red")


def test_the_camera_has_a_shutter_and_its_frame_is_not_mirrored(page):
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#video")).to_have_js_property("readyState", 4)
    expect(page.locator("#video")).to_have_css("transform", "none")
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#caption")).to_contain_text("Camera 1.png")
    verdict(page, "%")
    tracks = page.locator("#video").evaluate("(video) => video.srcObject.getTracks().map((track) => track.readyState)")
    assert tracks == ["ended"]


def test_programs_on_the_page_give_the_answer_of_the_page(page, served, tmp_path):
    sent = file("it's red.png")
    choose(page, sent)
    verdict(page, "red")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served.url)
    page.get_by_text("Use it from your own program").click()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#status")).to_have_text("Copied.")
    program = page.evaluate("navigator.clipboard.readText()")
    (tmp_path / "it's red.png").write_bytes(sent["buffer"])
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "'label': 'red'" in ran.stdout
    if shutil.which("curl"):
        command = page.locator("#curl").text_content()
        ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert json.loads(ran.stdout)["predictions"][0]["label"] == "red"


def test_images_go_to_this_server_only_and_stay_nowhere(chromium, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "tmp")
    models = Models([load_model(folder, "colours", max_batch=8)])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    running, thread = run_in_thread(Service(models, ServeSettings(**FIXED)))
    with opened(chromium, running.url) as page:
        four(page)
        assert running.url.removeprefix("http://") in page.locator("#private").inner_text()
        assert page.evaluate("Promise.all([indexedDB.databases(), caches.keys()])") == [[], []]
        assert page.evaluate("navigator.serviceWorker.getRegistrations()") == []
        assert page.context.storage_state() == {"cookies": [], "origins": []}
        assert page.evaluate("sessionStorage.length") == 0
    end(running, thread)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# When the server cannot


def test_a_busy_server_is_asked_again_when_it_said(page):
    asked = []

    def busy(route):
        asked.append(route)
        if len(asked) <= 2:
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": "busy"})
        else:
            route.continue_()

    page.route("**/predict*", busy)
    page.locator("#files").set_input_files([file("a.png"), file("b.png")])
    expect(page.locator("#status")).to_have_text("The server is busy; trying again in 1 s.")
    assert len(asked) == 2
    verdict(page, "red")
    expect(page.locator("#going")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("")
    assert len(asked) == 4
    times = [
        e["startTime"] for e in page.evaluate("performance.getEntriesByType('resource')") if "predict" in e["name"]
    ]
    assert max(times) - min(times) >= 950


def test_an_answer_leaves_alone_what_is_typed_meanwhile(page):
    choose(page, file("wide.png", "green", (80, 60)))
    verdict(page, "green")
    page.get_by_role("button", name="Crop").click()
    held = []
    page.route("**/predict*", lambda route: held.append(route))
    with page.expect_request("**/predict*"):
        page.get_by_label("Right").fill("40")
        page.keyboard.press("Tab")
    page.get_by_label("Bottom").fill("60")
    with page.expect_response("**/predict*"):
        held.pop().continue_()
    verdict(page, "green")
    expect(page.locator("#going")).to_be_hidden()
    expect(page.get_by_label("Bottom")).to_have_value("60")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Bottom")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#crop-wrong")).to_contain_text("within 0 to 59")


def test_four_at_a_time_and_all_can_be_cancelled(page):
    held = []
    page.route("**/predict*", lambda route: held.append(route))
    page.locator("#files").set_input_files([file(f"{n}.png") for n in range(9)])
    expect(page.locator("#count")).to_have_text("0 of 9")
    page.wait_for_timeout(200)
    assert len(held) == 4
    held.pop(0).continue_()
    expect(page.locator("#count")).to_have_text("1 of 9")
    page.wait_for_timeout(200)
    assert len(held) == 4
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Errors 8")).to_be_visible()
    verdict(page, "red")


def test_a_server_that_is_gone_and_comes_back(page):
    page.route("**/predict*", lambda route: route.abort())
    choose(page, file("a.png"))
    verdict(page, "The server cannot be reached")
    page.unroute("**/predict*")
    page.get_by_role("button", name="Try again").click()
    verdict(page, "red")


def test_a_token_is_asked_for_and_kept_in_memory_only_and_a_large_file_is_not_sent(chromium, folder):
    models = Models([load_model(folder, "colours", max_batch=8)])
    running, thread = run_in_thread(Service(models, ServeSettings(**FIXED, token=TOKEN, max_bytes=2_000_000)))
    with opened(chromium, running.url) as page:
        field = page.get_by_role("textbox", name="Token")
        expect(field).to_be_focused()
        field.fill("a-wrong-one-of-sixteen")
        page.keyboard.press("Enter")
        expect(page.locator("#token-wrong")).to_have_text("That is not the token of this server.")
        field.fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#token-ask")).to_be_hidden()
        expect(page.locator("#samples button")).to_have_count(2)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        choose(page, file("a.png"), {**file("b.png"), "buffer": bytes(2_100_000)})
        verdict(page, "red")
        row = page.get_by_role("row", name="b.png")
        expect(row).to_contain_text("Not sent: 2.1 MB, and this server takes at most 2.0 MB.")
        assert len([url for url in asked if "predict" in url]) == 1 and not [url for url in asked if TOKEN in url]
        assert "Bearer $SIGNSCLF_TOKEN" in page.locator("#curl").text_content()
        assert TOKEN not in page.content()
        assert page.context.storage_state() == {"cookies": [], "origins": []}
        assert page.evaluate("sessionStorage.length") == 0
        page.reload()
        expect(field).to_be_focused()
    end(running, thread)


def test_another_model_answers_all_images_again(page, received):
    choose(page, file("a.png"))
    with page.expect_request("**/predict?model=other") as asked:
        page.get_by_label("Model").select_option("other")
    asked.value.response()
    assert received == [png("red", (40, 30))] * 2
    expect(page.get_by_role("heading", level=1)).to_have_text("other")


# Keys


def test_everything_can_be_done_by_keys(page):
    def focused():
        return page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")

    def tab_to(text):
        for _ in range(60):
            if focused() == text:
                break
            page.keyboard.press("Tab")
        assert focused() == text
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"

    tab_to("Sample: red")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_be_focused()
    page.evaluate(DROP, ["drop", [["x.png", base64.b64encode(png("blue", (40, 30))).decode()]]])
    expect(page.locator("#spoken")).to_have_text("2 images answered: 2 accepted, 0 rejected, 0 errors.")
    verdict(page, "blue")
    page.keyboard.press("ArrowLeft")
    verdict(page, "red")
    expect(page.locator("#spoken")).to_contain_text("red.png: red")
    page.keyboard.press("h")
    expect(page.locator("#heat")).to_be_visible()
    page.keyboard.press("r")
    expect(page.locator("#box")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(page.locator("#crop-toggle")).to_be_focused()
    tab_to("x.png")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_be_focused()
    verdict(page, "blue")
    page.keyboard.press("Delete")
    verdict(page, "red")
    page.keyboard.press("?")
    box = page.get_by_label("React to single keys")
    expect(page.locator("#help")).to_be_visible()
    while not box.evaluate("(e) => e === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("Delete")
    verdict(page, "red")
    page.keyboard.press("Tab")
    tab_to("Remove")
    page.keyboard.press("Enter")
    expect(page.locator("#open")).to_be_focused()
    with page.expect_file_chooser():
        page.keyboard.press("Enter")


# Looks and languages


def test_german_is_spoken_to_who_reads_it(chromium, served):
    with opened(chromium, served.url, locale="de-AT") as page:
        expect(page.locator("#samples button")).to_have_count(2)
        assert page.locator("html").get_attribute("lang") == "de"
        four(page)
        verdict(page, "red, ")
        assert page.locator("#verdict .number").inner_text().count(",") == 1
        page.get_by_role("row", name="two.png").click()
        expect(page.locator("#verdict")).to_have_text("Nicht sicher genug: unter 90,00\xa0%")
        expect(page.locator("#spoken")).to_have_text("4 Bilder beantwortet: 2 angenommen, 1 abgelehnt, 1 Fehler.")


def test_both_languages_say_the_same_things(page):
    english, german = page.evaluate("[Object.keys(TEXT.en), Object.keys(TEXT.de)]")
    assert english == german
    assert page.evaluate("Object.keys(TEXT.en).filter((key) => typeof TEXT.en[key] !== typeof TEXT.de[key])") == []


STATES = {
    "empty": lambda page: None,
    "one": lambda page: (choose(page, file("a.png")), page.keyboard.press("h"), page.keyboard.press("r")),
    "many": four,
    "error": lambda page: choose(page, {**file("a.png"), "buffer": b"%PDF-1.7"}),
}
LOOKS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "forced colours": {"forced_colors": "active"},
    "narrow": {"viewport": {"width": 320, "height": 700}, "has_touch": True},
}


def check(chromium, served, look, state):
    """Nothing that axe-core finds, no target that is too small, nothing that is wider than the window."""
    from axe_playwright_python.sync_playwright import Axe

    # The page's own policy keeps axe's script out.
    with opened(chromium, served.url, bypass_csp=True, **LOOKS[look]) as page:
        expect(page.locator("#samples button")).to_have_count(2)
        STATES[state](page)
        expect(page.locator("#going")).to_be_hidden()
        found = Axe().run(page, options={"runOnly": RULES}).response
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
        assert page.evaluate(SMALL) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_axe_finds_nothing(chromium, served):
    check(chromium, served, "light", "many")


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_in_any_state(chromium, served, look, state):
    check(chromium, served, look, state)
