"""The report of a real run: whole, self-contained, honest and safe; looked at in a real browser where there is one."""

import json
import shutil
import subprocess
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from elfs_ray.report.render import write_report
from elfs_ray.report.thumbnails import make_thumbnails
from elfs_ray.store import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.headings, self.text, self._stack = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self._stack.append(tag)
        self.links += [attributes[name] for name in ("src", "href") if attributes.get(name)]
        if tag == "img":
            self.images.append(attributes)

    def handle_endtag(self, tag):
        while self._stack and self._stack.pop() != tag:
            pass

    def handle_data(self, data):
        inside = self._stack[-1] if self._stack else ""
        if inside in ("h1", "h2", "h3"):
            self.headings.append(data)
        if inside not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def page(small_run):
    text = Store(small_run.run_dir).read_bytes("report.html").decode()
    return Page(text)


def test_needs_nothing_from_elsewhere(page, small_run):
    assert all(link.startswith("data:") for link in page.links)
    assert len(Store(small_run.run_dir).read_bytes("report.html")) < 15 * 2**20


def test_says_what_was_chosen_and_how_good_it_is(page, small_run):
    text = " ".join(" ".join(page.text).split())
    metrics = small_run.manifest["stages"]["evaluation/elfs/40"]["metrics"]
    for subset in ("elfs", "random"):
        assert f"{100 * metrics['models']['mlp']['subsets'][subset]['mean']:.1f} ±" in text
    assert f"{metrics['test_samples']:,} test images" in text
    for unit in small_run.manifest["stages"]:
        assert unit in text


def test_shows_pictures_with_their_names(page):
    assert len(page.images) >= 20
    assert all(image["src"].startswith("data:image/jpeg;base64,") and image["alt"] for image in page.images)


def test_has_every_section(page):
    expected = {
        "Is it better than random?",
        "How hard are the images?",
        "How much of the hard end to drop?",
        "Clusters",
    }
    assert expected <= set(page.headings)


def hostile(store, text):
    manifest = json.loads(store.read_bytes("manifest.json"))
    manifest["name"] = manifest["input"] = text
    store.write_json(manifest, "manifest.json")


def test_names_are_escaped(small_run, tmp_path):
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    hostile(Store(str(run_dir)), "<script>alert(1)</script>")
    write_report(Store(str(run_dir)))
    text = (run_dir / "report.html").read_text()
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_run_that_is_not_finished_has_a_report_of_what_is_there(small_run, tmp_path):
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    store = Store(str(run_dir))
    stages = {name: record for name, record in store.manifest()["stages"].items() if name in ("ingest", "embed")}
    store.update_manifest(stages=stages)
    write_report(store)
    page = Page((run_dir / "report.html").read_text())
    assert "Clusters" not in page.headings
    assert "Stages" in page.headings


def test_a_picture_that_is_gone_is_said_so(small_run, tmp_path):
    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")
    store = Store(str(run_dir))
    samples = store.read_table("samples")
    gone = pa.array(["/nowhere.png"] * len(samples))
    samples = samples.set_column(samples.column_names.index("uri"), samples.schema.field("uri"), gone)
    store.delete("samples")
    store.write_table(samples, samples.schema, "samples", "part-000000.parquet")
    (thumbnail,) = make_thumbnails(store, {3: "cluster 1"})
    assert (thumbnail.sample_id, thumbnail.caption, thumbnail.data) == ("digit-0003.png", "cluster 1", "")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to look at the page with")
def test_draws_without_an_error_in_a_browser(small_run, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    done = subprocess.run(
        [
            CHROMIUM,
            *options,
            f"--user-data-dir={tmp_path}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            f"file://{small_run.report}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.count('class="main-svg"') >= 4
    assert "CONSOLE" not in done.stderr
