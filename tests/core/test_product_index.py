"""Neighbours from rounded products: as good as exact ones, on vectors that are as crowded as real embeddings.

What a GPU does runs here twice: on a CPU, and its code on tensors that only say that they are on a GPU.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from elfs_ray.core import product_index
from elfs_ray.core.features import normalize_rows, unit_half
from elfs_ray.core.knn import recall_at_k
from elfs_ray.core.product_index import COLUMNS, ProductIndex, best_columns
from elfs_ray.core.ranking import rank_candidates

CPU = torch.device("cpu")


def crowded(rng, count=3000, dim=64):
    """A few blobs in few dimensions, and a common direction: similarities differ in the third digit; float16."""
    centres = rng.normal(size=(12, 8))
    low = centres[rng.integers(12, size=count)] + 0.3 * rng.normal(size=(count, 8))
    return unit_half(low @ rng.normal(size=(8, dim)) + 4 * rng.normal(size=dim)).vectors


def signs(rng, count, dim=4):
    """Rows of length 1 exactly, whose similarities are exact in any precision, many of them equal."""
    return (rng.choice([-1, 1], size=(count, dim)) / np.sqrt(dim)).astype(np.float16)


def index_of(halves, **options):
    index = ProductIndex(*halves.shape, CPU, **options)
    for some in np.array_split(halves, 3):
        index.add(some)
    return index


@pytest.fixture(autouse=True)
def rounded(monkeypatch):
    """Products as a GPU makes them: of halves, summed in float32, rounded once."""
    monkeypatch.setattr(product_index, "_products", lambda some, block: (some.float() @ block.float().T).half())


def exact(vectors, queries, k):
    similarity = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


class TestSearch:
    def test_finds_the_neighbours_from_half_precision(self, rng):
        halves = crowded(rng, count=6000)
        vectors = normalize_rows(halves)
        expected = exact(vectors, vectors[:1000], 50)
        similarity, rows = index_of(halves).search(vectors[:1000], 50)
        assert recall_at_k(rows, expected) >= 0.999
        # Without the spare candidates the rounding would show: the test would see it.
        _, bare = index_of(halves, spare=0.0).search(vectors[:1000], 50)
        assert recall_at_k(bare, expected) < 0.99
        # The rows that the card rebuilds from their halves are those of the processors.
        ids, theirs = rank_candidates(vectors[:1000], vectors, np.sort(rows, axis=1), 50)
        assert (ids == rows).mean() >= 0.999
        np.testing.assert_allclose(similarity, theirs, rtol=0, atol=2e-7)

    @pytest.mark.parametrize("block_bytes", [1, 2**20, 2**31 - 1])
    def test_blocks_do_not_matter_and_equal_ones_come_in_order(self, rng, block_bytes, monkeypatch):
        monkeypatch.setattr(product_index, "RANKED_BYTES", 50_000 if block_bytes == 1 else 2**29)
        halves = signs(rng, 700)
        queries = halves.astype(np.float32)
        # All rows are candidates: which of the equal ones are found is then decided by their order alone.
        similarity, rows = index_of(halves, spare=700 / 30, block_bytes=block_bytes).search(queries, 30)
        assert rows.tolist() == exact(queries, queries, 30).tolist()
        assert (np.diff(similarity, axis=1) <= 0).all()
        # Wide rows have few that are equal; with the usual spare candidates blocks do not matter either.
        halves = crowded(rng, count=1100)
        queries = normalize_rows(halves)[:600]
        _, rows = index_of(halves, block_bytes=block_bytes).search(queries, 5)
        assert recall_at_k(rows, exact(normalize_rows(halves), queries, 5)) >= 0.999

    @pytest.mark.parametrize("count", [1, 2, 255, 256, 257])
    def test_all_rows_are_neighbours_at_most(self, rng, count):
        halves = signs(rng, count, dim=16)
        queries = halves.astype(np.float32)
        similarity, rows = index_of(halves).search(queries, count)
        assert rows.tolist() == exact(queries, queries, count).tolist()
        assert similarity[:, 0].tolist() == [1.0] * count

    def test_lengths_and_rows_of_zeros(self, rng):
        halves = (crowded(rng, count=300) * np.float16(0.5)).astype(np.float16)
        halves[7] = 0
        queries = normalize_rows(halves)[:20]
        similarity, rows = index_of(halves).search(queries, 300)
        expected = np.take_along_axis(queries @ normalize_rows(halves).T, rows, axis=1)
        np.testing.assert_allclose(similarity, expected, atol=1e-6)

    def test_more_rows_than_announced_are_refused(self, rng):
        index = index_of(signs(rng, 10))
        with pytest.raises(ValueError, match="an index for 10 rows was given 11"):
            index.add(signs(rng, 1))


class TestBestColumns:
    @given(
        queries=st.integers(1, 4),
        blocks=st.integers(1, 40),
        count=st.integers(1, 60),
        values=st.sampled_from([3, 50, 100_000]),
        dtype=st.sampled_from([torch.float16, torch.float32]),
        seed=st.integers(0, 2**31),
    )
    def test_are_those_of_a_full_sort(self, queries, blocks, count, values, dtype, seed):
        """Few values: many are equal. Which of these are taken is free, the values are not."""
        rng = np.random.default_rng(seed)
        products = torch.from_numpy(rng.integers(values, size=(queries, blocks * COLUMNS)) / values - 0.5).to(dtype)
        real = int(rng.integers(max(1, products.shape[1] - COLUMNS), products.shape[1] + 1))
        products[:, real:] = -torch.inf
        count = min(count, real)
        found, columns = best_columns(products, count)
        assert torch.equal(found, products.gather(1, columns))
        assert torch.equal(found.sort(dim=1, descending=True).values, products.topk(count, dim=1).values)
        assert all(len(set(row)) == count for row in columns.tolist())
        assert int(columns.max()) < real

    def test_groups_are_used(self, rng, monkeypatch):
        """A few values of each row go through `topk`, as the test above could not tell."""
        seen = []
        topk = torch.Tensor.topk
        monkeypatch.setattr(
            torch.Tensor, "topk", lambda self, *a, **b: seen.append(self.shape[1]) or topk(self, *a, **b)
        )
        best_columns(torch.from_numpy(rng.normal(size=(2, 200 * COLUMNS))), 12)
        assert seen == [200 * COLUMNS // 64, 12 * 64]


class TestOnAGpu:
    """The code that a GPU runs, on tensors without values that know their device: mixed ones raise."""

    @pytest.fixture
    def index(self):
        with FakeTensorMode():
            # Two blocks of products, of which the second is not full, and three of candidates' rows.
            index = ProductIndex(20_000, 64, torch.device("cuda"), block_bytes=2 * 512 * 12_800)
            index.append(torch.zeros(20_000, 64, dtype=torch.float16, device="cuda"))
            yield index

    def test_everything_stays_there(self, index, monkeypatch):
        monkeypatch.setattr(product_index, "RANKED_BYTES", 8 * 40 * 64 * 200)
        queries = torch.zeros(512, 64, device="cuda")
        candidates = index.candidates(queries, 40)
        similarity, rows = index.rank(queries, candidates, 20)
        for tensor, dtype, shape in (
            (candidates, torch.int64, (512, 40)),
            (similarity, torch.float32, (512, 20)),
            (rows, torch.int64, (512, 20)),
        ):
            assert (tensor.device.type, tensor.dtype, tuple(tensor.shape)) == ("cuda", dtype, shape)

    def test_the_index_is_in_half_precision(self, index):
        assert index._rows.dtype == torch.float16
        assert index._rows.nbytes + index._lengths.nbytes < 20_256 * (2 * 64 + 8)

    @pytest.mark.parametrize("part", ["_rows", "_lengths"])
    def test_a_part_on_the_cpu_is_an_error(self, index, part):
        setattr(index, part, getattr(index, part).cpu())
        queries = torch.zeros(8, 64, device="cuda")
        with pytest.raises(RuntimeError, match=r"[Dd]evice"):
            index.rank(queries, index.candidates(queries, 40), 20)
