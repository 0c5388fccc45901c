"""The report in a real browser: no error, and what a person does with the map."""

import contextlib
import io
import json
import shutil

import pytest
from PIL import Image, ImageStat
from playwright.sync_api import sync_playwright

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.report.render import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to look at the page with")
POINT_OF_FIRST_SELECTED = """() => {
  const plot = document.getElementById("map-plot"), { xaxis, yaxis } = plot._fullLayout, trace = plot.data[1];
  return [trace.customdata[0], xaxis._offset + xaxis.l2p(trace.x[0]), yaxis._offset + yaxis.l2p(trace.y[0])];
}"""
NAME = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(small_run, tmp_path_factory):
    """The report of a run whose folder and first sample have the names of an attacker."""
    run_dir = shutil.copytree(small_run.run_dir, tmp_path_factory.mktemp("browser") / "run")
    store = RunFolder(str(run_dir))
    for artifact in ("samples", "map"):
        table = Table(store, artifact).read()
        ids = [NAME, *table["sample_id"].to_pylist()[1:]]
        table = table.set_column(table.column_names.index("sample_id"), table.schema.field("sample_id"), [ids])
        store.delete(artifact)
        write_table(store, artifact, table, table.schema)
    store.update_manifest(name=NAME)
    write_report(store)
    return run_dir / "report.html"


@pytest.fixture(scope="module")
def open_page(browser, report):
    """Opens the page in a colour scheme; at the end, what the console said must be no error."""

    @contextlib.contextmanager
    def opened(scheme):
        page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
        said = []
        page.on("console", lambda message: said.append((message.type, message.text)))
        page.on("pageerror", lambda error: said.append(("error", str(error))))
        page.on("request", lambda sent: said.append(("error", sent.url)) if sent.url.startswith("http") else None)
        page.goto(f"file://{report}")
        page.wait_for_selector("#map-plot .main-svg")
        yield page
        assert [text for kind, text in said if kind == "error"] == []
        assert page.title() == f"{NAME} - elfs_ray"
        page.close()

    return opened


@pytest.fixture(scope="module")
def page(open_page):
    with open_page("light") as page:
        yield page


def darkness(page):
    """Mean of all pixels that are seen, 255 where all is black."""
    return 255 - ImageStat.Stat(Image.open(io.BytesIO(page.screenshot())).convert("L")).mean[0]


def test_dark_where_the_reader_wants_it(open_page, page):
    with open_page("dark") as dark:
        assert darkness(dark) > 180
    assert darkness(page) < 75


def test_charts_are_drawn(page):
    assert page.locator(".main-svg").count() >= 4
    picture = Image.open(io.BytesIO(page.locator("#map-plot").screenshot()))
    assert len(picture.convert("RGB").getcolors(2**24)) > 50


def test_the_picture_of_the_point_under_the_pointer(page):
    page.locator("#map-plot").scroll_into_view_if_needed()
    point, x, y = page.evaluate(POINT_OF_FIRST_SELECTED)
    box = page.locator("#map-plot").bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_selector("#map-picture:not([hidden])")
    data = json.loads(page.locator("#map-data").text_content())
    assert page.locator("#map-picture").get_attribute("src") == data["picture"][str(point)]
    assert page.locator("#map-caption").inner_text().startswith(data["id"][point])
    assert page.locator("#map-caption").inner_text().endswith("selected")


def test_filters(page):
    count = page.locator("#map-count")
    assert count.inner_text() == "240 shown, 40 of them selected"
    page.check("#map-only")
    assert count.inner_text() == "40 shown, 40 of them selected"
    page.uncheck("#map-only")
    page.select_option("#map-cluster", "3")
    data = json.loads(page.locator("#map-data").text_content())
    members = [point for point, cluster in enumerate(data["cluster"]) if cluster == 3]
    chosen = set(data["selected"]["elfs/40"]).intersection(members)
    assert count.inner_text() == f"{len(members)} shown, {len(chosen)} of them selected"
    page.select_option("#map-cluster", "")


def test_the_configuration_is_copied(page, small_run):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_text("Configuration", exact=True).click()
    button = page.locator("button.copy").first
    button.click()
    page.wait_for_function("document.querySelector('button.copy').textContent === 'Copied'")
    assert (
        json.loads(page.evaluate("navigator.clipboard.readText()")) == RunFolder(small_run.run_dir).manifest()["config"]
    )


def test_by_keyboard_alone(page):
    page.focus("#map-coreset")
    for expected in ("map-colour", "map-cluster", "map-only"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == expected
    page.keyboard.press("Space")
    assert page.locator("#map-count").inner_text() == "40 shown, 40 of them selected"
