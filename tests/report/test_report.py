"""The report of a real run: whole, self-contained, honest and safe; looked at in a real browser where there is one."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from elfs_ray.artifacts import schema
from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.artifacts.writing import write_table
from elfs_ray.report import charts
from elfs_ray.report.coresets import describe_coresets
from elfs_ray.report.map_data import map_data
from elfs_ray.report.render import write_report
from elfs_ray.report.thumbnails import Pictures
from made_records import add_records, record_of
from small import BUDGET


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


@pytest.fixture
def store(small_run, tmp_path):
    """A copy of the small run."""
    return RunFolder(str(shutil.copytree(small_run.run_dir, tmp_path / "run")))


@pytest.fixture(scope="module")
def page(small_run):
    text = RunFolder(small_run.run_dir).read_bytes("report.html").decode()
    return Page(text)


def test_needs_nothing_from_elsewhere(page, small_run):
    assert all(link.startswith("data:") for link in page.links)
    assert len(RunFolder(small_run.run_dir).read_bytes("report.html")) < 15 * 2**20


def test_says_what_was_chosen_and_how_good_it_is(page, small_run):
    text = " ".join(" ".join(page.text).split())
    metrics = small_run.manifest["records"]["evaluate/elfs/40"]["metrics"]
    for subset in ("elfs", "random"):
        assert f"{100 * metrics['models']['mlp']['subsets'][subset]['mean']:.1f} ±" in text
    assert f"{metrics['test_samples']:,} test images" in text
    for unit in small_run.manifest["records"]:
        assert unit in text


def test_shows_pictures_with_their_names(page):
    assert len(page.images) >= 20
    pictures = [image for image in page.images if image.get("id") != "map-picture"]  # which a pointer fills
    assert all(image["src"].startswith("data:image/jpeg;base64,") and image["alt"] for image in pictures)


def test_has_every_section(page):
    expected = {
        "Is it better than random?",
        "How hard are the images?",
        "How much of the hard end to drop?",
        "Clusters",
        "Where are they?",
        "Does it cover the images?",
        "Near-duplicates",
        "Stages",
        "To repeat this run",
    }
    assert expected <= set(page.headings)


def hostile(store, text):
    manifest = json.loads(store.read_bytes("manifest.json"))
    manifest["name"] = manifest["input"] = text
    store.write_json(manifest, "manifest.json")


def test_names_are_escaped(store):
    hostile(store, "<script>alert(1)</script>")
    write_report(store)
    text = store.read_bytes("report.html").decode()
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_run_that_is_not_finished_has_a_report_of_what_is_there(store):
    records = {
        name: record for name, record in store.manifest()["records"].items() if name in ("listing", "ingest", "embed")
    }
    store.update_manifest(records=records)
    write_report(store)
    page = Page(store.read_bytes("report.html").decode())
    assert "Clusters" not in page.headings
    assert "Stages" in page.headings


def test_trials_that_were_stopped_early_are_no_part_of_the_curve(store):
    search = f"beta_search/elfs/{BUDGET}"
    rows = Table(store, search).read().to_pylist()
    chosen, betas = record_of(store, search).metrics["beta"], sorted({row["beta"] for row in rows})
    stopped = next(beta for beta in betas if beta != chosen)
    for row in rows:
        row["steps"] //= 1 + (row["beta"] == stopped)
    store.delete(search)
    write_table(store, search, pa.Table.from_pylist(rows, schema.BETA_SEARCH), schema.BETA_SEARCH)
    write_report(store)
    text = store.read_bytes("report.html").decode()
    traces = dict(re.findall(r'"name":"((?:stopped early: )?elfs\\u002f\d+)".*?"x":(\[.*?\])', text))
    assert [json.loads(x) for x in traces.values()] == [[beta for beta in betas if beta != stopped], [stopped]]


def test_methods_that_were_not_trained_alike_are_named(store):
    evaluated = record_of(store, f"evaluate/elfs/{BUDGET}")
    chosen = {"mlp": {**evaluated.chosen["mlp"], "steps": 70}}
    other = Unit("evaluate", method="random", budget=BUDGET)
    shutil.copytree(store.path("evaluation", "elfs"), store.path("evaluation", "random"))
    add_records(store, replace(evaluated, unit=other, chosen=chosen))
    write_report(store)
    told = f"accuracies of mlp at budget {BUDGET} do not compare: evaluate.steps was 60 for elfs, 70 for random"
    assert told in store.read_bytes("report.html").decode()


def test_a_picture_that_is_gone_is_said_so(store):
    samples = Table(store, "samples").read()
    gone = pa.array(["/nowhere.png"] * len(samples))
    samples = samples.set_column(samples.column_names.index("uri"), samples.schema.field("uri"), gone)
    store.delete("samples")
    write_table(store, "samples", samples, samples.schema)
    (thumbnail,) = Pictures(store, 1000).make({3: "cluster 1"})
    assert (thumbnail.sample_id, thumbnail.caption, thumbnail.data) == ("digit-0003.png", "cluster 1", "")


def test_pictures_end_with_their_bytes(small_run):
    store = RunFolder(small_run.run_dir)
    every = Pictures(store, 10**9).make(dict.fromkeys(range(20), ""))
    first = sum(len(one.data) for one in every[:7])
    assert Pictures(store, first + 1).make(dict.fromkeys(range(20), "")) == every[:7]


def test_many_clusters_do_not_make_many_pictures(store):
    coreset = Table(store, "coresets/elfs/40").read()
    every_other = pa.array(range(len(coreset)), pa.int32())
    coreset = coreset.set_column(coreset.column_names.index("pseudo_label"), "pseudo_label", every_other)
    write_table(store, "coresets/elfs/40", coreset, schema.CORESET)
    (described,) = describe_coresets(store, store.records(), Pictures(store, 10**9), limit=12)
    assert [len(pictures) for _, pictures in described.gallery] == [1, 1, 1]
    assert described.clusters_left_out == 37


def test_the_map_shows_pictures_of_selected_and_of_other_images(small_run):
    store = RunFolder(small_run.run_dir)
    data = map_data(store, store.records(), Pictures(store, 10**9), most_pictures=20)
    chosen = set(data["selected"]["elfs/40"])
    assert len(chosen) == 40
    assert len(chosen.intersection(data["picture"])) == 10
    assert len(data["picture"]) == 20
    hardest = min(range(240), key=data["aum"].__getitem__)
    assert data["difficulty"][hardest] == 1


def test_near_duplicates_are_the_most_similar_pairs(small_run):
    store = RunFolder(small_run.run_dir)
    vectors = Embeddings(store).unit_vectors()
    similarity = np.triu(vectors @ vectors.T, k=1)
    pairs = Table(store, "near_duplicates").read().to_pandas()
    first, second = np.unravel_index(similarity.argmax(), similarity.shape)
    assert (pairs["index"][0], pairs["other"][0]) == (first, second)
    assert pairs["similarity"].to_numpy() == pytest.approx(similarity[pairs["index"], pairs["other"]], abs=1e-3)
    assert pairs["similarity"].is_monotonic_decreasing
    assert not pairs.duplicated(["index", "other"]).any()
    ids = Table(store, "samples").read()["sample_id"].to_pylist()
    assert [ids[index] for index in pairs["other"]] == pairs["other_id"].tolist()
    alike = (np.maximum(similarity, similarity.T).max(axis=1) >= 0.95).sum()
    assert small_run.manifest["records"]["duplicates"]["metrics"]["alike"] == alike


def test_coverage_is_that_of_the_coreset(small_run):
    store = RunFolder(small_run.run_dir)
    vectors = Embeddings(store).unit_vectors()
    chosen = vectors[Table(store, "coresets/elfs/40").read()["index"].to_numpy()]
    among = chosen @ chosen.T - 2 * np.eye(len(chosen))
    rows = Table(store, "coverage/elfs/40").read().to_pylist()
    assert rows[0]["coverage"] == pytest.approx((vectors @ chosen.T).max(axis=1).mean(), abs=1e-3)
    assert rows[0]["redundancy"] == pytest.approx(among.max(axis=1).mean(), abs=1e-3)
    assert [row["subset"] for row in rows] == ["coreset", *["random"] * 5]
    assert len({row["coverage"] for row in rows}) == 6


def test_of_many_methods_the_best_are_shown_at_first():
    results = {f"m{number}": {50: (number / 100, 0.01), 100: (number / 50, 0.02)} for number in range(8)}
    html = charts.gains(results)
    assert 'aria-label="Accuracy less random subsets by budget. Mean over budgets, points: m7 +10.5; m6 +9.0;' in html
    assert re.findall(r'"name":"(m\d)"[^}]*?"visible":"legendonly"', html) == ["m1", "m0"]
