"""Picks in memory: every method, every form of X, and the same picks as a run's."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from elfs_ray import CoresetSelector, NeighborsConfig, pick
from elfs_ray.core.groups import representatives
from elfs_ray.methods import available_methods

N, CLASSES, BUDGET = 48, 3, 9
# What takes long is shortened: the contract holds whatever the options.
QUICK = {
    "neighbors": {"k": 12},
    "pseudo_labels": {"heads": 2, "epochs": 2, "batch_size": 24},
    "proxy": {"epochs": 12, "tdds": True},
    "beta_search": {"betas": [0.0, 0.2], "seeds": 2, "steps": 5},
}
METHOD_OPTIONS = {
    "badge": {"steps": 20},
    "puma": {"steps": 20},
    "zcore": {"draws": 200},
    "auto": {"among": ["random", "stratified", "elfs"]},
}


def quick(method):
    return {"method": method, "num_classes": CLASSES, "options": METHOD_OPTIONS.get(method), **QUICK}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """On a busy machine, threads that work on next to nothing wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    return (3 * np.eye(6)[rng.integers(CLASSES, size=N)] + rng.normal(size=(N, 6))).astype(np.float32)


@pytest.mark.parametrize("method", sorted(available_methods()))
def test_every_method_picks(matrix, method):
    """The budget, without repeats, the same each time; what has labels comes first and is not picked again."""
    picked = pick(matrix, BUDGET, **quick(method))
    assert (picked.dtype, picked.shape, len(set(picked.tolist()))) == (np.int64, (BUDGET,), BUDGET)
    assert 0 <= picked.min() <= picked.max() < N
    labeled = np.sort(picked[:2])
    after = pick(1000 * matrix, BUDGET, labeled=labeled, **quick(method))
    assert after[:2].tolist() == labeled.tolist()
    assert len(set(after.tolist())) == BUDGET


def test_the_seed_decides(matrix):
    first, again, other = (pick(matrix, BUDGET, **quick("elfs"), seed=seed).tolist() for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize(
    "given",
    [
        lambda matrix: matrix.tolist(),
        lambda matrix: matrix.astype(">f8"),
        lambda matrix: torch.from_numpy(matrix).double(),
        lambda matrix: pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1]),
        lambda matrix: pa.chunked_array([list(matrix[:5].tolist()), list(matrix[5:].tolist())]),
        lambda matrix: pd.Series(list(matrix)),
        pd.DataFrame,
    ],
    ids=["lists", "other byte order", "torch", "fixed-size lists", "chunks of lists", "column of vectors", "columns"],
)
def test_forms_of_a_matrix(matrix, given):
    expected = pick(matrix, BUDGET, method="kcenter").tolist()
    assert pick(given(matrix), BUDGET, method="kcenter").tolist() == expected


def test_budgets_and_masks(matrix):
    mask = np.isin(np.arange(N), [3, 7])
    whole = pick(matrix, 12, method="typiclust", labeled=mask, neighbors=NeighborsConfig(k=12))
    assert whole[:2].tolist() == [3, 7]
    assert pick(matrix, 0.25, method="typiclust", labeled=torch.tensor([7, 3]), neighbors={"k": 12}).tolist() == (
        whole.tolist()
    )


def test_one_of_a_group_at_most(matrix):
    """Ten groups of four and eight samples of no group; the first group is done, because one of it has a label."""
    groups = [*np.repeat([f"video {number}" for number in range(10)], 4), *[None] * 8]
    picked = pick(matrix, 10, method="kcenter", groups=groups, labeled=[1])
    named = [groups[row] for row in picked]
    assert picked[0] == 1
    videos = [name for name in named if name]
    assert len(set(videos)) == len(videos)
    every = pick(matrix, 18, method="random", groups=groups, labeled=[1])
    assert sorted(groups[row] or "" for row in every) == [*[""] * 8, *(f"video {number}" for number in range(10))]


def test_the_middle_of_a_group_stands_for_it():
    """Angles of 0, 10 and 50 degrees: the mean is near 20, and the second is the nearest."""
    angles = np.radians([90, 0, 10, 50, 120, 120])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert representatives(vectors, np.array([7, 2, 2, 2, 4, 4])).tolist() == [0, 2, 4]


def test_images_by_path_and_from_memory(tmp_path):
    """The same files, opened by us or by Pillow: turned by their metadata, of 16 bits, transparent."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(256, size=(3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 80)).save(path)
    depth = np.random.default_rng(9).integers(4000, size=(40, 30)).astype(np.uint16)
    Image.fromarray(depth).save(paths[1])
    Image.open(paths[2]).convert("RGBA").rotate(20).save(paths[2])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(paths[0]).save(paths[0], exif=turned)
    options = {"method": "kcenter", "embed": {"image_size": 64}, "progress": False}
    picked = pick(paths, 3, **options).tolist()
    assert pick([str(path) for path in paths], 3, **options).tolist() == picked
    assert pick([Image.open(path) for path in paths], 3, **options).tolist() == picked
    assert len(set(picked)) == 3


def test_random_embeds_nothing(tmp_path):
    """Files that are not there are not missed."""
    names = [str(tmp_path / f"{number}.png") for number in range(20)]
    assert len(set(pick(names, 5, method="random").tolist())) == 5


def test_no_ray_and_nothing_written(tmp_path):
    code = (
        "import sys, numpy as np, elfs_ray\n"
        "elfs_ray.pick(np.random.default_rng(0).normal(size=(40, 4)), 4, method='kcenter')\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


class TestEstimator:
    def test_keeps_the_conventions(self):
        expected = {"check_estimators_dtypes": "its whole numbers hold a row of zeros, which cosine cannot compare"}
        check_estimator(CoresetSelector(options={"options": {"draws": 20}}), expected_failed_checks=expected)

    def test_selects_rows(self, matrix):
        selector = clone(CoresetSelector(BUDGET, method="kcenter", random_state=3)).fit(matrix)
        assert selector.indices_.tolist() == pick(matrix, BUDGET, method="kcenter", seed=3).tolist()
        assert np.array_equal(selector.select(matrix), matrix[selector.indices_])
        names = pd.Series([f"{row}" for row in range(N)])
        assert selector.select(names).tolist() == selector.select(names.tolist()).tolist()
        assert np.flatnonzero(selector.get_support()).tolist() == selector.get_support(indices=True).tolist()
        assert set(selector.get_support(indices=True)) == set(selector.indices_)
        with pytest.raises(ValueError, match="X has 47 rows, and the selector was fitted on 48"):
            selector.select(matrix[1:])
