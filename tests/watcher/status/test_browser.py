"""The status page in a real browser: Debian's Chromium, headless. Its pictures are those of docs/guides/status.md."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import tifffile

from benchmarks.speed.page import fill
from defocus.engine.model.card import model_path
from defocus.engine.quality.report import PlaneReport
from defocus.watcher.journal import Journal
from defocus.watcher.journal_entry import FileState, JournalEntry

from ...helpers.waiting import wait_for
from ..conftest import free_port, states, write_tiff
from ..test_faults import faults, shim  # noqa: F401  fixtures
from .conftest import CHROMIUM
from .lab import PATIENCE, QUICK, Lab, accessible, drawn, expect, keep
from .test_status import EVIL, ask, listens

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
DEMO = Path(__file__).parents[3] / "demo" / "demo.py"


def test_two_microscopes_from_the_first_image_to_trouble(browser, axe, lab):
    with Lab(lab, model_path()) as lab_:
        page = lab_.page(browser)
        first, second = lab_.raw
        expect(page.locator("#state")).to_have_text("watching", timeout=PATIENCE)
        assert page.locator(".scope h2 .name").all_inner_texts() == ["Widefield 20x", "spinning disk"]
        assert page.locator(".nothing:visible").count() == 2
        expect(page.locator("#machine")).not_to_contain_text("unknown", timeout=PATIENCE)  # free disk space
        assert page.locator(".plot").evaluate_all("nodes => nodes.map(node => node.clientHeight)") == [0, 0]
        accessible(page, axe)
        keep(page, "idle")

        # Both busy; the first drifts out of focus, the second stays sharp.
        wide, disk = page.locator(".scope").nth(0), page.locator(".scope").nth(1)
        for number in range(8):
            if number < 4:
                drawn(second / f"s{number:02d}.tif", 0.0, 50 + number)
            drawn(first / f"t{number:02d}.tif", 2.5 * number, number)
            # One after the other, so that each has a place of its own in the plot.
            expect(wide.locator(".numbers dd").first).to_have_text(f"{number + 1}", timeout=PATIENCE)
            if number == 3:
                expect(disk.locator(".numbers dd").first).to_have_text("4", timeout=PATIENCE)  # without a reload
                wait_for(lambda: disk.locator(".after").evaluate("node => node.naturalWidth") == 512)
        expect(wide.locator(".numbers dd").first).to_have_text("8", timeout=PATIENCE)
        wait_for(lambda: wide.locator(".after").evaluate("node => node.naturalWidth") == 512)
        assert wide.locator(".numbers dd").first.inner_text() == "8"
        assert disk.locator(".numbers dd").first.inner_text() == "4"
        expect(wide.locator(".about")).to_contain_text("µm out of focus")
        expect(wide.locator(".about")).to_contain_text("fidelity")
        expect(disk.locator(".about")).to_contain_text("px blurred")

        # The drift: in um, with its threshold, told in words.
        expect(wide.locator(".refocus")).to_contain_text("Refocus: the last files are", timeout=PATIENCE)
        assert disk.locator(".refocus").is_hidden()
        expect(page.locator("#state")).to_have_text("refocus Widefield 20x")
        assert page.title() == "refocus: defocus"
        expect(page.locator("#news")).to_have_text("Refocus Widefield 20x")
        texts = wide.locator(".plot text").all_text_contents()
        assert any("µm" in text for text in texts)
        assert any(text.startswith("alarm at ") for text in texts)
        assert wide.locator(".plot .limit").count() == 1
        marks = wide.locator(".plot [data-count]").evaluate_all("nodes => nodes.map(node => +node.dataset.count)")
        assert sum(marks) == 8
        assert disk.locator(".plot .kept").get_attribute("data-count") == "4"
        points = json.loads(ask(lab_.port, "/api/points?folder=0")[2])
        assert points[-1][1] > points[1][1]
        names = [point[-1] for point in points]  # in the order in which they were corrected
        accessible(page, axe)
        page.evaluate("window.scrollTo(0, 0)")
        keep(page, "drift")

        # A value under the pointer, and a click that shows the file.
        box = wide.locator(".plot").bounding_box()
        page.mouse.move(box["x"] + 46, box["y"] + box["height"] / 2)
        for fraction in range(10):
            page.mouse.move(box["x"] + 46, box["y"] + box["height"] * fraction / 10)
            if wide.locator(".tip").is_visible():
                break
        expect(wide.locator(".tip")).to_contain_text(f"{names[0]}: ")
        page.mouse.down()
        page.mouse.up()
        expect(wide.locator(".which")).to_have_text(f"Image {names[0]}")
        assert f"file={names[0]}" in wide.locator(".before").get_attribute("src")
        wide.locator(".latest").click()
        expect(wide.locator(".which")).to_have_text(f"Last image {names[-1]}")
        # The same with the keyboard alone.
        wide.locator(".scrub").focus()
        page.keyboard.press("ArrowLeft")
        expect(wide.locator(".which")).to_have_text(f"Image {names[-2]}")
        assert wide.locator(".scrub").get_attribute("aria-valuetext").startswith(f"{names[-2]}, ")
        before = wide.locator(".before")
        assert before.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 50% 0px 0px)"
        wide.locator(".slider").fill("20")
        assert before.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 80% 0px 0px)"
        assert wide.locator(".slider").get_attribute("aria-valuetext") == "20 % recorded, 80 % corrected"

        # Failures, and a folder that cannot be reached.
        (second / EVIL).write_bytes(b"not a TIFF")
        for name in ("short1.tif", "short2.tif"):
            (second / name).write_bytes((second / "s00.tif").read_bytes()[:5000])
        expect(disk.locator(".failures h3")).to_have_text("Quarantined: 3", timeout=PATIENCE)
        assert page.locator("#state").get_attribute("class") == "amber"
        shown = disk.locator(".failures").inner_text()
        assert EVIL in shown  # as text, not as an image
        assert "not a TIFF: 1" in shown
        assert "truncated: 2" in shown
        assert disk.locator(".failures img").count() == 0
        assert disk.get_by_role("button", name="Try all 2 again: truncated").count() == 1
        second.rename(second.with_name("away"))
        expect(page.locator("#state")).to_have_text("in trouble", timeout=PATIENCE)
        assert page.title() == "trouble: defocus"
        expect(page.locator("#problems")).to_contain_text("cannot be reached")
        expect(page.locator("#notes")).to_contain_text("waiting for it to come back")
        expect(page.locator("#news")).to_contain_text("In trouble")
        accessible(page, axe)
        page.evaluate("window.scrollTo(0, 0)")
        keep(page, "trouble")
        keep(disk.locator(".failures"), "failures")
        second.with_name("away").rename(second)
        expect(page.locator("#problems")).to_be_hidden(timeout=PATIENCE)

        # Mended, and asked for together.
        for name in ("short1.tif", "short2.tif"):
            status = (second / name).stat()
            whole = (second / "s00.tif").read_bytes()
            (second / name).write_bytes(whole)
            os.utime(second / name, ns=(status.st_atime_ns, status.st_mtime_ns))
        button = disk.get_by_role("button", name="Try all 2 again: truncated")
        if button.count():
            button.click()
        expect(disk.locator(".failures h3")).to_have_text("Quarantined: 1", timeout=PATIENCE)

        page.set_viewport_size({"width": 375, "height": 800})  # a phone
        assert page.evaluate("document.documentElement.scrollWidth <= 375")
        accessible(page, axe)
        page.evaluate("window.scrollTo(0, 0)")
        keep(page, "phone")
        assert page.errors == []

        dark = lab_.page(browser, color_scheme="dark")
        expect(dark.locator(".refocus").first).to_be_visible(timeout=PATIENCE)
        wait_for(lambda: dark.locator(".after").first.evaluate("node => node.naturalWidth") == 512)
        accessible(dark, axe)
        dark.evaluate("window.scrollTo(0, 0)")
        keep(dark, "dark")
        dark.close()

        # A finger: what is under it is told, and shown.
        finger = lab_.page(browser, has_touch=True)
        plot = finger.locator(".plot").nth(0)
        wait_for(lambda: finger.locator(".plot [data-count]").count() > 0)
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        finger.touchscreen.tap(box["x"] + box["width"] - 10, box["y"] + 60)
        expect(finger.locator(".tip").nth(0)).to_contain_text(f"{names[-1]}: ")
        expect(finger.locator(".which").nth(0)).to_have_text(f"Image {names[-1]}")
        finger.close()

        # It ends: numbers that nobody vouches for are grey.
        lab_.process.terminate()
        expect(page.locator("#state")).to_contain_text("the daemon has not answered since", timeout=PATIENCE)
        assert "dead" in page.locator("body").get_attribute("class")
        assert page.title() == "no answer: defocus"
        accessible(page, axe)  # grey, but legible; axe-core does not look into pictures
        styles = "node => { const style = getComputedStyle(node); return [style.filter, style.opacity]; }"
        assert wide.locator(".plot").evaluate(styles) == ["grayscale(1)", "1"]
        assert wide.locator(".plot .line").evaluate(styles)[1] == "0.45"
        lab_.process.wait(300)
        # And begins again: the page finds it by itself, and what was there is told.
        with lab_:
            expect(page.locator("#state")).to_have_text("refocus Widefield 20x", timeout=PATIENCE)
            expect(page.locator(".scope").nth(0).locator(".which")).to_have_text(f"Last image {names[-1]}")
            rows = page.locator(".scope").nth(0).locator(".numbers dd").all_inner_texts()
            assert rows[:2] == ["8", "0"]  # corrected, and since the start
            expect(page.locator(".scope").nth(0).locator(".plottext")).to_contain_text("8 files")


def test_two_microscopes_are_busy_with_what_was_there_at_the_start(browser, axe, lab):
    lab_ = Lab(lab, model_path())
    for number in range(16):
        for scope, raw in enumerate(lab_.raw):
            drawn(raw / f"{'ts'[scope]}{number:02d}.tif", 0.5 * number * (1 - scope), 100 * scope + number)
    with lab_:
        page = lab_.page(browser)
        page.set_viewport_size({"width": 1000, "height": 1040})
        expect(page.locator("#sum")).to_contain_text("32 waiting, about ", timeout=PATIENCE)
        for scope in (0, 1):
            numbers = page.locator(".scope").nth(scope).locator(".numbers")
            wait_for(lambda numbers=numbers: int(numbers.locator("dd").first.inner_text()) >= 3, 120)
            assert "latency, median\n-" in numbers.inner_text()  # nobody knows when they came
        expect(page.locator("#state")).to_have_text("busy")
        assert "\nbacklog\n" in page.locator(".numbers").nth(0).inner_text()
        keep(page, "busy")
        accessible(page, axe)
        assert page.errors == []


def test_a_restart_over_a_journal_of_100_000_rows(browser, axe, lab, tiny_model):
    lab_ = Lab(lab, tiny_model)
    out = lab_.raw[0].parent / "corrected1"
    with Journal(out) as journal:
        report = json.dumps([PlaneReport(0.1, 0.2, 0.99, 0.1, 3.0).as_dict()])
        journal.record(JournalEntry("last.tif", (1, 1), "", "", FileState.DONE, report=report))
    fill(journal.path, 100_000)
    with lab_:
        page = lab_.page(browser)
        wide = page.locator(".scope").nth(0)
        expect(wide.locator(".failures h3")).to_have_text("Quarantined: 5,000", timeout=PATIENCE)
        assert wide.locator(".numbers dd").all_inner_texts()[:2] == ["95,001", "0"]  # in all, and since the start
        assert page.locator("#sum").inner_text().startswith("95,001 corrected, 0 since the start, 0 waiting")
        assert wide.get_by_role("button", name="Try all 5,000 again: truncated").count() == 1
        expect(wide.locator(".others")).to_have_text("and 4,980 more")
        assert wide.locator(".group li").count() == 20
        assert page.title() == "(5000) defocus"
        assert page.locator("#state").get_attribute("class") == "amber"
        wide.locator(".span").select_option(label="all")
        expect(wide.locator(".plottext")).to_contain_text(" files, ")
        shown = int(wide.locator(".plottext").inner_text().split(" files, ")[0].replace(",", ""))
        assert 500 < shown < 3000  # days of them, thinned
        expect(wide.locator(".nopicture")).to_be_visible(timeout=PATIENCE)  # the files are not there
        assert wide.locator(".stage").is_hidden()
        accessible(page, axe)


def test_doubtful_files_have_a_list_with_their_pictures(browser, axe, lab, tiny_model):
    """As the journal tells of them: no small model is wrong at will."""
    report = json.dumps([PlaneReport(0.1, 0.2, 0.9, 0.7, 9.0).as_dict()])
    with Lab(lab, tiny_model, "--all-planes") as lab_:
        for number in range(3):
            write_tiff(lab_.raw[0] / f"d{number}.tif", number, (96, 128))
        out = lab_.raw[0].parent / "corrected1"
        wait_for(lambda: states(out) == dict.fromkeys(("d0.tif", "d1.tif", "d2.tif"), "done"))
    with closing(sqlite3.connect(out / ".defocus" / "journal.sqlite")) as journal, journal:
        journal.execute("UPDATE files SET report = ? WHERE relative != 'd1.tif'", (report,))
    with lab_:
        page = lab_.page(browser)
        wide = page.locator(".scope").nth(0)
        expect(wide.locator(".doubtful h3")).to_have_text("Doubtful, look before you use them: 2", timeout=PATIENCE)
        expect(wide.locator(".thumbs button")).to_have_count(2)
        assert sorted(wide.locator(".thumbs button").all_inner_texts()) == ["d0.tif", "d2.tif"]
        wait_for(lambda: wide.locator(".thumbs img").first.evaluate("node => node.naturalWidth") == 128)
        assert wide.locator(".plot .doubtful").get_attribute("data-count") == "2"
        accessible(page, axe)
        wide.get_by_role("button", name="d0.tif").click()
        expect(wide.locator(".which")).to_have_text("Image d0.tif")
        expect(wide.locator(".about")).to_contain_text("doubtful")
        assert page.errors == []


def test_a_field_for_the_token(browser, axe, lab, tiny_model):
    with Lab(lab, tiny_model, "--status-token", "se cret+ü") as lab_:
        page = lab_.page(browser)
        expect(page.get_by_label("Token")).to_be_focused()
        page.add_init_script("window.path = node => node.outerHTML")
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button").click()
        page.get_by_label("Token").fill("se cret+ü")
        page.get_by_label("Token").press("Enter")
        expect(page.locator("#state")).to_have_text("watching", timeout=PATIENCE)
        assert page.url == f"http://127.0.0.1:{lab_.port}/"  # the token is not left in the address
        page.reload()
        expect(page.locator("#state")).to_have_text("watching", timeout=PATIENCE)

        def asked() -> bool:
            page.context.clear_cookies()  # again and again: an answer that was on its way brings the cookie back
            return page.get_by_label("Token").is_visible()

        wait_for(asked)
        page.evaluate(axe)
        assert page.evaluate("axe.run()")["violations"] == []


def test_a_page_that_is_not_looked_at_asks_for_nothing_and_one_that_is_gets_304(browser, lab, tiny_model):
    with Lab(lab, tiny_model) as lab_:
        page = lab_.page(browser)
        expect(page.locator("#state")).to_have_text("watching", timeout=PATIENCE)
        answers: list[int] = []
        asked: list[str] = []
        page.on("response", lambda answer: answers.append(answer.status) if "api/" in answer.url else None)
        page.on("request", lambda request: asked.append(request.url) if "api/" in request.url else None)
        # While nothing changes: what others write to the disk changes the room that is shown, and that is a 200.
        wait_for(lambda: page.wait_for_timeout(200) or answers[-3:] == [304] * 3)
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        page.wait_for_timeout(1500)  # what was asked before is told of
        quiet = len(asked)
        page.wait_for_timeout(2500)
        assert len(asked) == quiet > 0


def test_the_whole_page_is_small():
    from importlib.resources import files

    assets = files("defocus.watcher.status") / "assets"
    assert sum(len(path.read_bytes()) for path in assets.iterdir()) < 60_000


def test_the_retry_button_has_a_file_corrected(browser, folders, start):
    """Quarantined for something that is mended without the file itself being written again."""
    acquisition, out = folders
    port = free_port()
    start(*QUICK, "--status", str(port)).ready()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    (out / "a.tif").write_bytes(b"somebody else's")
    write_tiff(acquisition / "a.tif")
    expect(page.locator(".failures")).to_contain_text("is there already", timeout=PATIENCE)
    (out / "a.tif").unlink()
    page.get_by_role("button", name="Try again: a.tif").click()
    expect(page.locator(".failures")).to_be_hidden(timeout=PATIENCE)
    expect(page.locator(".which")).to_have_text("Last image a.tif", timeout=PATIENCE)
    assert tifffile.imread(out / "a.tif").shape == (64, 64)


def test_a_pause_is_shown_with_its_reason(browser, axe, folders, start):
    """No disk has so much room: the folder waits, and the page says what for."""
    port = free_port()
    start(*QUICK, "--status", str(port), "--min-free-mb", "1e9").ready()
    write_tiff(folders[0] / "a.tif")
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    expect(page.locator("#state")).to_have_text("in trouble", timeout=PATIENCE)
    expect(page.locator("#problems")).to_contain_text("waiting for 1e+09 MB")
    expect(page.locator("#notes")).to_contain_text("MB free", timeout=PATIENCE)
    assert page.title() == "trouble: defocus"
    page.evaluate(axe)
    assert page.evaluate("axe.run()")["violations"] == []
    page.close()


def test_the_page_answers_while_the_model_is_loaded(browser, axe, folders, start, faults, tiny_model):  # noqa: F811
    """The disk of the model is slow, 5 s: whoever looks sees that it starts. It took under 2 s of processor time."""
    port = free_port()
    faults.begin(("open", 0, str(tiny_model)), seconds=5.0)
    watching = start(*QUICK, "--status", str(port), environment=faults.environment)
    wait_for(lambda: listens(port))
    took = psutil.Process(watching.process.pid).cpu_times()
    assert took.user + took.system < 2.0
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    expect(page.locator("#state")).to_have_text("starting: the model is being loaded")
    page.evaluate(axe)
    assert page.evaluate("axe.run()")["violations"] == []
    assert "watching " not in watching.said()
    faults.end()
    expect(page.locator("#state")).to_have_text("watching", timeout=PATIENCE)
    page.close()


def test_the_report_of_a_run_is_a_page_of_one_file(browser, axe, tmp_path):
    """As docs/guides/reports.md shows it: the demo's drift, its most doubtful files first."""
    subprocess.run([sys.executable, DEMO, "--draw", tmp_path / "raw"], check=True, timeout=300)
    if "DEFOCUS_SCREENSHOTS" not in os.environ:  # a part of each image says as much in a fifth of the time
        for path in (tmp_path / "raw").iterdir():
            tifffile.imwrite(path, tifffile.imread(path)[130:338, 180:484])
    line = [sys.executable, "-m", "defocus.engine.cli.run", "raw", "-o", "corrected", "--report", "report"]
    done = subprocess.run([*line, "--backend", "cpu"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    page = browser.new_page(viewport={"width": 900, "height": 640})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report" / "report.html").as_uri())
    assert page.locator("tbody tr").count() == len(list((tmp_path / "raw").iterdir())) == 12
    doubts = [float(text) for text in page.locator("tbody td:nth-child(5)").all_inner_texts()]
    assert doubts == sorted(doubts, reverse=True)
    assert page.locator("img").evaluate_all("nodes => nodes.every(node => node.naturalWidth > 0)")
    assert page.locator("th").evaluate_all("nodes => nodes.every(node => node.clientHeight < 50)")  # no word is broken
    assert page.evaluate("document.documentElement.scrollWidth") <= 900  # no column beyond the edge
    assert not [url for url in asked[1:] if not url.startswith("data:")]
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical", "moderate")] == []
    keep(page, "report")
    page.close()
