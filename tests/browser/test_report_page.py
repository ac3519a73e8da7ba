"""The review page in a real browser, used as a person would; skipped where there is no Chromium.

Screenshots are written into the test's temporary folder, or the folder that SCREENSHOTS names.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from overread.confidence.review_plan import review_plan
from overread.metrics.summary import Summary
from overread.review.report import write_report
from overread.review.views import PREDICTION, case_view
from overread.testing.browser import Browser, browsing, find_chromium
from overread.testing.review import HOSTILE, MEMBERS, made_report

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium, or name one in CHROMIUM")
CASES = 120
READY = "document.documentElement.dataset.ready && document.querySelector('#viewer').dataset.painted"
CAPTION = "document.querySelector('#table caption').textContent"
ROWS = "[...document.querySelectorAll('#rows tr')].map(row => row.children[1].textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM
    with browsing(CHROMIUM, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, made_report(CASES, side=32))
    return path


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Browser]:
    """Show the page as on the first day; nothing that a test does may make it complain."""
    browser.complaints.clear()
    browser.open(report)
    browser.run("localStorage.clear()")
    browser.open(report)
    browser.wait(READY)
    yield browser
    assert browser.complaints == []


def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def choose(page: Browser, id_: str, value: object) -> None:
    page.run(
        f"(() => {{ const e = document.getElementById('{id_}'); e.value = {json.dumps(value)};"
        "e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change')); })()"
    )


def picture(page: Browser, plane: int = 0) -> str:
    found: str = page.run(f"document.querySelectorAll('.planes canvas')[{plane}].toDataURL()")
    return found


def pixels(page: Browser, colour: tuple[int, int, int]) -> int:
    """Return how many pixels of the first plane have a colour."""
    found: int = page.run(
        "(() => { const c = document.querySelector('.planes canvas');"
        "const own = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true});"
        "own.drawImage(c, 0, 0); const p = own.getImageData(0, 0, c.width, c.height).data; let n = 0;"
        f"for (let i = 0; i < p.length; i += 4) n += p[i] === {colour[0]} && p[i + 1] === {colour[1]}"
        f" && p[i + 2] === {colour[2]}; return n; }})()"
    )
    return found


def exported(page: Browser, button: str) -> str:
    """Return the text of the file that a button saves."""
    text: str = page.run(
        "(async () => { const make = URL.createObjectURL; let blob; URL.createObjectURL = b => { blob = b;"
        f" return '#'; }}; document.getElementById('{button}').click(); URL.createObjectURL = make;"
        " return await blob.text(); })()"
    )
    return text


def test_the_worst_case_is_open_and_names_are_text(page: Browser, tmp_path: Path) -> None:
    assert page.run("document.querySelector('#viewer h3').textContent") == f"1. {HOSTILE}"
    assert page.run(ROWS)[:2] == [HOSTILE, "case_0001"]
    assert page.run("document.title") == "overread: made up"
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.querySelectorAll('.planes canvas').length") == 3
    page.run("document.getElementById('cases').scrollIntoView()")
    shot = page.screenshot(screenshots(tmp_path) / "review_page.png").read_bytes()
    assert shot.startswith(b"\x89PNG") and len(shot) > 50_000
    print(f"screenshot: {screenshots(tmp_path) / 'review_page.png'}")  # noqa: T201


def test_only_one_page_of_rows_is_in_the_document(page: Browser) -> None:
    assert len(page.run(ROWS)) == 50
    page.run("document.getElementById('on').click()")
    assert page.run(ROWS)[0] == "case_0050"
    assert page.run("document.getElementById('page').textContent") == "page 2 of 3"


def test_layers_are_shown_and_hidden(page: Browser) -> None:
    orange, sky, vermillion = (230, 159, 0), (86, 180, 233), (213, 94, 0)
    for key in "234":  # the prediction alone
        page.press(key)
    assert pixels(page, orange) > 100
    assert pixels(page, sky) == pixels(page, vermillion) == 0
    page.press("1")
    assert pixels(page, orange) == 0
    page.press("2")
    assert pixels(page, sky) > 50
    page.press("5")
    assert pixels(page, vermillion) > 100
    labels = page.run("[...document.querySelectorAll('.layers label')].map(e => e.textContent)")
    assert labels == [f"{i} {n}" for i, n in enumerate(("prediction", "truth", "possible", "consensus", *MEMBERS), 1)]


def test_slices_move_in_three_planes(page: Browser) -> None:
    names = page.run("[...document.querySelectorAll('.planes label span')].map(e => e.textContent)")
    # The discs are centred on voxel 16 of y and 8 of z; along x the members are shifted.
    assert names[:2] == ["axial: voxel 8 of 0–15", "coronal: voxel 16 of 0–31"]  # noqa: RUF001
    assert names[2].startswith("sagittal: voxel")
    for plane in range(3):
        before = picture(page, plane)
        page.run(
            f"(() => {{ const e = document.querySelectorAll('.planes input')[{plane}]; e.value = 2;"
            "e.dispatchEvent(new Event('input')); })()"
        )
        assert picture(page, plane) != before
    before = picture(page)
    page.press("]")
    assert picture(page) != before
    page.press("[")
    assert picture(page) == before


def test_filter_and_sort(page: Browser) -> None:
    choose(page, "find", "E_011")
    assert page.run(ROWS) == [f"case_{i:04d}" for i in range(110, 120)]
    choose(page, "find", "")
    choose(page, "show", "flag")
    assert page.run(ROWS) == [HOSTILE]
    choose(page, "show", "all")
    page.run("[...document.querySelectorAll('#head button')].find(b => b.textContent.startsWith('true Dice')).click()")
    assert page.run("document.querySelector('#head [aria-sort]').textContent") == "true Dice\u00a0▴"
    dice = page.run("[...document.querySelectorAll('#rows tr')].map(row => Number(row.children[4].textContent))")
    assert dice == sorted(dice)
    choose(page, "column", "dice")
    choose(page, "most", "0.8")
    rows = made_report(CASES, side=32).cases
    assert page.run("document.getElementById('shown').textContent") == (
        f"{sum((row.dice or 0) <= 0.8 for row in rows)} of {CASES} shown"
    )


def test_what_a_review_gains_is_what_python_computes(page: Browser) -> None:
    rows = made_report(CASES, side=32).cases
    plan = review_plan([row.confidence for row in rows], [row.dice for row in rows], "pairwise_dice")
    assert plan is not None
    choose(page, "score", "pairwise_dice")
    choose(page, "share", 30)
    told = page.run("document.getElementById('gain').textContent")
    assert told.startswith("36 cases to review")
    assert f"the other 84 have an expected mean Dice of {plan.rest_dice[30]:.3f} (all: {plan.rest_dice[0]:.3f})" in told
    assert f"{plan.caught[30]:g} of {plan.failures} failures are caught (Dice below 0.7), by the true Dice." in told
    choose(page, "show", "plan")
    assert len(page.run(ROWS)) == 36


def test_the_failures_told_are_those_of_the_order_shown(browser: Browser, tmp_path: Path) -> None:
    """Ten of forty cases are flagged, half of them failures, of which most have the higher foreground."""
    data = made_report(40, side=32, steps=4)
    rows = list(data.cases)
    for place, at in enumerate(range(0, 40, 4)):
        empty = replace(rows[at].confidence, flag="all_empty", foreground=0.4 - 0.00001 * place)
        rows[at] = replace(rows[at], confidence=empty, dice=float(place in (3, 5, 6, 8, 9)), view=None)
    write_report(tmp_path / "report.html", replace(data, cases=rows))
    browser.open(tmp_path / "report.html")
    browser.wait(READY)
    told = []
    for score in ("relation_confidence", "pairwise_dice"):
        choose(browser, "score", score)
        for share in (10, 15, 25, 50):
            choose(browser, "share", share)
            cases = json.loads(exported(browser, "json"))["cases"]
            caught = sum(case["dice"] < 0.7 for case in cases if case["to_review"])
            failures = sum(case["dice"] < 0.7 for case in cases)
            assert f"; {caught} of {failures} failures are caught" in browser.run(
                "document.getElementById('gain').textContent"
            )
            told.append(caught)
    assert told[:3] == told[4:7] == [3, 4, 5]  # of the first 4, 6 and 10


def test_marks_are_kept_and_exported(page: Browser, report: Path) -> None:
    page.press("r")
    page.press("j")
    page.wait("document.querySelector('#viewer').dataset.painted === '1'")
    page.press("r")
    page.press("k")
    page.press("r")  # takes the first mark away
    choose(page, "share", 5)
    found = json.loads(exported(page, "json"))
    assert (found["score"], found["review_per_cent"], len(found["cases"])) == ("relation_confidence", 5, CASES)
    assert [case["case"] for case in found["cases"] if case["reviewed"]] == ["case_0001"]
    assert sum(case["to_review"] for case in found["cases"]) == 6
    table = list(csv.DictReader(io.StringIO(exported(page, "csv"))))
    assert [row["case"] for row in table[:2]] == [HOSTILE, "case_0001"]
    assert table[0]["flag"] == "member failed: dai_net-9"
    assert table[1]["n_readings"] == str(found["cases"][1]["n_readings"]) != "0"
    assert (table[0]["reviewed"], table[1]["reviewed"], table[1]["rank"]) == ("false", "true", "2")
    assert table[1]["reviewed_at"] == found["cases"][1]["reviewed_at"] != ""
    page.open(report)
    page.wait(READY)
    assert page.run("document.getElementById('done').textContent") == "1"


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.press("?")
    assert page.run("document.getElementById('keys').offsetHeight") > 0
    page.press("/")
    assert page.run("document.activeElement.id") == "find"
    page.press("r")  # typed, not a mark
    assert page.run("document.getElementById('done').textContent") == "0"
    page.press("Escape")
    choose(page, "find", "")
    page.press("u")
    page.wait("document.querySelector('#viewer').dataset.painted === '1'")
    assert page.run("document.activeElement.textContent") == "case_0001"
    page.press("Tab")
    style = page.run("(e => [getComputedStyle(e).outlineStyle, e.ariaLabel])(document.activeElement)")
    assert style == ["solid", "reviewed: case_0001"]
    unnamed = page.run(
        "[...document.querySelectorAll('input, select, button')].filter(e => !e.labels?.length"
        " && !e.ariaLabel && !e.textContent.trim()).length"
    )
    assert unnamed == 0


def test_on_paper_all_rows_and_no_controls(page: Browser, tmp_path: Path) -> None:
    page.call("Emulation.setEmulatedMedia", media="print")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert len(page.run(ROWS)) == CASES
    assert page.run("[...document.querySelectorAll('.controls, .pager, nav')].every(e => !e.offsetHeight)")
    page.screenshot(screenshots(tmp_path) / "review_page_print.png")
    assert page.run(CAPTION).endswith("where it is known")
    choose(page, "find", "E_011")
    assert page.run(CAPTION).endswith(f"where it is known: 10 that the filter leaves of {CASES}")
    choose(page, "find", "")
    page.run("dispatchEvent(new Event('afterprint'))")
    page.call("Emulation.setEmulatedMedia", media="")
    assert len(page.run(ROWS)) == 50
    assert page.run(CAPTION).endswith("where it is known")


@pytest.mark.parametrize("width", [420, 1500])
def test_captions_stay_within_the_window_beside_wide_tables(browser: Browser, tmp_path: Path, width: int) -> None:
    data = made_report(3, side=32, steps=3)
    summary = Summary(n=9, mean=0.01, sd=0.02, low=0.005, high=0.015)
    members = [replace(m, name=m.name * 3, contribution=summary, error_correlation=0.5) for m in data.members]
    write_report(tmp_path / "report.html", replace(data, members=members))
    browser.open(tmp_path / "report.html", width=width)
    browser.wait(READY)
    browser.run("document.getElementById('ensemble').scrollIntoView()")
    browser.screenshot(screenshots(tmp_path) / f"review_members_{width}.png")
    caption = "document.querySelector('#ensemble + .pair caption')"
    browser.run(f"{caption}.closest('.scroll').scrollLeft = 150")  # the caption stays when the table is scrolled
    left, right, wide, box = browser.run(
        f"(c => {{ const own = c.getBoundingClientRect(), box = c.closest('.scroll').getBoundingClientRect();"
        " return [own.left - box.left, box.right - own.right, c.scrollWidth - c.clientWidth, box.width];"
        f" }})({caption})"
    )
    assert left >= 0 and right >= 0 and wide <= 0 and box <= width


def test_more_than_nine_members_differ_in_colour_or_dashes(browser: Browser, tmp_path: Path) -> None:
    members = [(f"m{at}", np.full((8, 8), at % 2, np.uint8)) for at in range(14)]
    view = case_view(
        np.arange(64.0).reshape(8, 8),
        [(PREDICTION, members[1][1]), *members],
        foreground=np.ones((8, 8), np.uint8),
        slice_axis=None,
    )
    data = made_report(1, side=32, labelled=False)
    write_report(tmp_path / "report.html", replace(data, cases=[replace(data.cases[0], view=lambda: view)]))
    browser.open(tmp_path / "report.html")
    browser.wait(READY)
    lines = browser.run(
        "[...document.querySelectorAll('.layers line')]"
        ".map(e => e.getAttribute('stroke') + ' ' + e.getAttribute('stroke-dasharray'))"
    )
    assert len(lines) == len(set(lines)) == 3 + len(members)
    labels = browser.run("[...document.querySelectorAll('.layers label')].map(e => e.textContent)")
    assert labels[8:10] == ["9 m5", "m6"]  # the keys reach nine


def test_without_truth_the_page_says_what_it_does_not_know(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", made_report(4, side=32, labelled=False))
    browser.open(tmp_path / "report.html")
    browser.wait(READY)
    told = browser.run("document.getElementById('gain').textContent")
    assert "neither true nor predicted Dice" in told


def test_predicted_dice_stands_in_for_the_truth_and_is_called_so(browser: Browser, tmp_path: Path) -> None:
    data = made_report(4, side=32, steps=4, labelled=False)
    predicted = [None, 0.5, 0.8, 0.9]
    rows = [
        replace(row, confidence=replace(row.confidence, predicted_dice=dice, dice_lower_bound=dice and dice - 0.1))
        for row, dice in zip(data.cases, predicted, strict=True)
    ]
    write_report(tmp_path / "report.html", replace(data, cases=rows))
    browser.open(tmp_path / "report.html")
    browser.wait(READY)
    choose(browser, "share", 50)
    told = browser.run("document.getElementById('gain').textContent")
    assert "2 cases to review (▸); the other 2 have an expected mean Dice of 0.850 (all: 0.733)" in told
    assert "2 of 2 expected failures are caught (Dice below 0.7, or flagged), by the predicted Dice" in told
    browser.press("j")
    browser.wait("document.querySelector('#viewer').dataset.painted === '1'")
    assert "lower boundat least 0.400" in browser.run("document.querySelector('.scores').textContent")


def test_two_thousand_cases_open_at_once(browser: Browser, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", made_report(2000, side=96, steps=3))
    megabytes = (tmp_path / "report.html").stat().st_size / 1e6
    browser.open(tmp_path / "report.html")
    browser.wait(READY)
    ready = browser.run("Number(document.documentElement.dataset.ready)")
    print(f"2,000 cases: {megabytes:.1f} MB, ready after {ready} ms")  # noqa: T201
    assert "50 with the whole case, 1950 with its key slice" in browser.run("document.body.textContent")
    assert megabytes < 41  # 40 of pictures
    assert ready < 5_000  # about 2,000 on a laptop
    assert len(browser.run(ROWS)) == 50
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert len(browser.run(ROWS)) == 500
    assert browser.run(CAPTION).endswith("where it is known: the first 500 of 2,000")
    browser.run("dispatchEvent(new Event('afterprint'))")
    browser.press("j")
    browser.wait("document.querySelector('#viewer').dataset.painted === '1'")
