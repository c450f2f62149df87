"""Hostile text stays text: in the files, and in a browser that opens them."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest

from properties.internals.hostile import HOSTILE, PageReader, hostile_files
from reports.build import build_page
from wise.measures.text import visible

pytestmark = pytest.mark.internals

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    files: dict[str, Any] = {**hostile_files(folder)}
    rows, checks = [files.pop("rows")], [files.pop("checks")]
    return build_page(rows, folder / "out", checks=checks, **files).parent


def test_hostile_text_adds_no_element_and_no_handler(hostile: Path) -> None:
    page = PageReader((hostile / "index.html").read_text(encoding="utf-8"))
    assert not {tag for tag, _ in page.tags} & {"script", "img", "b", "iframe"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<script>window.owned = 1</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text


def test_no_hidden_character_reaches_any_file(hostile: Path) -> None:
    for path in hostile.iterdir():
        text = path.read_text(encoding="utf-8").replace("\n", "")
        assert visible(text) == text, path.name


def test_hostile_figures_are_valid_xml_of_known_elements(hostile: Path) -> None:
    known = set("svg title desc defs style g path use text tspan rect clipPath".split())
    for path in hostile.glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert tags <= known, path.name


def test_no_cell_of_a_table_is_a_formula(hostile: Path) -> None:
    for path in hostile.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for line in csv.reader(file) for cell in line]
        for cell in cells:
            is_number = re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", cell)
            assert is_number or not cell.startswith(tuple("=+-@\t\r\uff1d")), (path.name, cell)


def test_long_texts_are_cut_with_their_length(hostile: Path) -> None:
    text = (hostile / "index.html").read_text(encoding="utf-8")
    assert "x" * 2_100 not in text
    assert "(10,000 characters)" in text


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_visible_text_is_text_that_xml_can_hold(text: str) -> None:
    shown = visible(text)
    assert ElementTree.fromstring(f"<a>{escape(shown)}</a>").text == shown
    assert visible(shown) == shown


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_hostile_page_runs_nothing_and_fits(
    width: int, theme: str, browser: Any, hostile: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto((hostile / "index.html").as_uri())
    assert page.evaluate("window.owned") is None
    assert asked == [(hostile / "index.html").as_uri()]
    assert not said
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    overflowing = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter(e => !e.closest(".scroll, .panel"))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
            .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert overflowing == []
    context.close()


def test_no_figure_file_runs_anything_by_itself(browser: Any, hostile: Path) -> None:
    page = browser.new_page()
    for path in sorted(hostile.glob("*.svg")):
        page.goto(path.as_uri())
        assert page.evaluate("window.owned") is None, path.name
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_page_differ_in_both_themes(theme: str, browser: Any, hostile: Path) -> None:
    context = browser.new_context(color_scheme=theme)
    page = context.new_page()
    page.goto((hostile / "index.html").as_uri())
    ink, paper = page.evaluate(
        """() => {
            const text = document.querySelector("svg text");
            return [getComputedStyle(text).fill, getComputedStyle(document.body).backgroundColor];
        }"""
    )
    assert (ink, paper) == (
        ("rgb(31, 35, 40)", "rgb(255, 255, 254)")
        if theme == "light"
        else ("rgb(230, 237, 243)", "rgb(13, 17, 23)")
    )
    context.close()


def test_labels_of_a_figure_do_not_overlap(browser: Any, hostile: Path) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto((hostile / "index.html").as_uri())
    overlaps = page.evaluate(
        """() => [...document.querySelectorAll("svg")].flatMap(svg => {
            const boxes = [...svg.querySelectorAll("text")]
                .filter(text => !text.getAttribute("transform")?.includes("rotate(-90"))
                .map(text => [text.textContent, text.getBoundingClientRect()]);
            return boxes.flatMap(([a, x], i) => boxes.slice(i + 1)
                .filter(([b, y]) => x.left + 1 < y.right && y.left + 1 < x.right
                                 && x.top + 3 < y.bottom && y.top + 3 < x.bottom)
                .map(([b]) => `${svg.getAttribute("aria-labelledby")}: ${a} | ${b}`));
        })"""
    )
    assert overlaps == []
    page.close()
