"""Pixels for networks: decoded once, by whoever needs them first; images that are gone since show who decodes again."""

import numpy as np
import pytest

from elfs_ray.artifacts.pixels import PIXELS, Pixels, remove_stale_pixels
from elfs_ray.artifacts.record import Unit
from elfs_ray.artifacts.run_folder import INDEX_FILE, RunFolder
from elfs_ray.config_loading import load_config
from elfs_ray.console import Reporter
from elfs_ray.data.images import to_square
from elfs_ray.data.unusable import UnusableImagesError
from elfs_ray.run.runner import run
from elfs_ray.stages.context import StageContext
from elfs_ray.stages.parts import pixels as parts
from elfs_ray.stages.parts.pixels import pixels_for
from kill_points import contents
from photographs import jpeg
from small import BUDGET, OPTIONS, AtBegin, copy_without

COUNT, SIDE = 24, 16


@pytest.fixture
def images(small_input, tmp_path, monkeypatch):
    """Name -> bytes of some images in a folder `images`; a part holds seven of them."""
    monkeypatch.setattr(parts, "LEAST_ROWS", 7)
    found = {path.name: path.read_bytes() for path in sorted(small_input[0].iterdir())[1:COUNT]}
    found["large.jpg"] = jpeg("flower.jpg", 2603, 1901)  # is decoded at a reduced scale
    write(found, tmp_path)
    return found


def write(images, tmp_path):
    (tmp_path / "images").mkdir(exist_ok=True)
    for name, data in images.items():
        (tmp_path / "images" / name).write_bytes(data)


@pytest.fixture
def context(in_process, images, tmp_path):
    store = RunFolder(str(tmp_path / "run"))
    config = load_config({"input": str(tmp_path / "images"), "budgets": [4], "num_classes": 2})
    run(config, store, Reporter(), until="ingest")
    return StageContext(config, store, Unit("proxy"), "work", in_process, Reporter())


def squares(images):
    return np.stack([to_square(data, SIDE, max_pixels=10**7) for data in images.values()])


def test_no_image_is_decoded_twice(context, images, tmp_path):
    wanted = np.array([22, 3, 17])
    few = pixels_for(context, SIDE, wanted=context.workers.share(wanted))
    assert few.held.tolist() == [3, 17, 22]
    np.testing.assert_array_equal(few.squares_at(wanted), squares(images)[wanted])
    with pytest.raises(IndexError, match="lacks some of the images"):
        few.squares_at(np.array([3, 4]))

    names = list(images)
    write(dict.fromkeys([names[row] for row in wanted], b""), tmp_path)
    everything = pixels_for(context, SIDE)
    assert [part.rows for part in everything.parts()] == [3, 7, 7, 7]
    write(dict.fromkeys(names, b""), tmp_path)
    pixels = pixels_for(context, SIDE)
    assert pixels.digest == everything.digest
    mixed = np.random.default_rng(0).permutation(COUNT)
    np.testing.assert_array_equal(pixels.squares_at(mixed), squares(images)[mixed])
    np.testing.assert_array_equal(pixels.mapped_squares(), squares(images))
    with pytest.raises(UnusableImagesError) as told:
        pixels_for(context, SIDE + 1)
    assert [one.sample_id for one in told.value.images] == names


def test_a_killed_run_keeps_its_parts(context, images, tmp_path):
    pixels = pixels_for(context, SIDE)
    store, before, names = context.store, contents(context.store), list(images)
    parts = [part.name for part in pixels.parts()]
    store.delete(pixels.name, INDEX_FILE)
    store.delete(pixels.name, parts[1])
    store.write_bytes(store.read_bytes(pixels.name, parts[0]), pixels.name, parts[2])  # of other images
    store.write_bytes(b"", pixels.name, "part-000009.parquet")
    write(dict.fromkeys(names, b""), tmp_path)
    with pytest.raises(UnusableImagesError) as told:
        pixels_for(context, SIDE)
    assert [one.sample_id for one in told.value.images] == names[7:21]
    write({name: images[name] for name in names[7:21]}, tmp_path)
    pixels_for(context, SIDE)
    assert contents(store) == before


def test_pixels_of_earlier_images_go(context):
    store, pixels = context.store, pixels_for(context, SIDE)
    earlier = [f"{folder}/{SIDE}-1-earlier" for folder in (PIXELS, f"test/{PIXELS}")]
    for name in earlier:
        store.write_json({}, name, INDEX_FILE)
    remove_stale_pixels(store)
    assert not any(store.exists(name) for name in earlier)
    assert store.names(PIXELS) == [pixels.name.rpartition("/")[2]]


def test_search_and_evaluation_see_what_the_proxy_saw(small_run, small_input, tmp_path):
    """The images are gone when the proxy is trained."""
    store = RunFolder(str(copy_without(small_run.run_dir, tmp_path / "run", "proxy")))
    on_images = {
        **{f"{section}.image_size": 32 for section in ("proxy", "beta_search", "evaluate")},
        "proxy.model": "resnet-small",
        "beta_search.model": "resnet-small",
        "evaluate.models": ["resnet-small"],
        "proxy.epochs": 1,
        "beta_search.betas": [0.0, 0.2],
        "beta_search.steps": 3,
        "evaluate.steps": 3,
        "evaluate.labels": str(small_input[1]),
    }
    config = load_config({**OPTIONS, **on_images}, base=small_run.manifest["config"])
    aside = tmp_path / "aside"
    try:
        reporter = AtBegin(f"beta_search/elfs/{BUDGET}", lambda: small_input[0].rename(aside))
        records = run(config, store, reporter, until="evaluate")["records"]
    finally:
        aside.rename(small_input[0])
    assert records["proxy"]["chosen"]["model"] == records["beta_search/elfs/40"]["chosen"]["model"] == "resnet-small"
    [pixels] = store.names(PIXELS)
    assert Pixels(store, f"{PIXELS}/{pixels}").rows == records["ingest"]["rows"]["samples"]
