import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.decomposition import PCA

from elfs_ray.core import features
from elfs_ray.core.components import PrincipalComponents
from elfs_ray.core.features import normalize_rows, undirected_rows, unit_half
from elfs_ray.core.splits import stratified_split


def test_rows_have_unit_length_and_zeros_stay(rng):
    vectors = rng.normal(size=(5, 3)).astype(np.float16)
    vectors[2] = 0
    rows = normalize_rows(vectors)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 1, 1], rtol=1e-6)


def matrices(kind, **options):
    """Small matrices in which each row has a value that is not zero."""
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
    numbers = hnp.from_dtype(np.dtype(kind), allow_nan=False, allow_infinity=False, **options)
    return hnp.arrays(kind, shapes, elements=numbers).filter(lambda rows: rows.any(axis=1).all())


def exact_norm(row):
    """Of a row of floats, by exact arithmetic, as mantissa and exponent of two."""
    total = sum(Fraction(float(value)) ** 2 for value in row)
    shift = (total.numerator.bit_length() - total.denominator.bit_length()) // 2
    return math.sqrt(total / Fraction(4) ** shift), shift


def ulps(ours, theirs):
    """How many float16 numbers lie between two, at most."""
    places = [rows.astype(np.float16).view(np.int16).astype(int) for rows in (ours, theirs)]
    ordered = [np.where(bits < 0, -(bits & 0x7FFF), bits) for bits in places]
    return int(np.abs(ordered[0] - ordered[1]).max(initial=0))


class TestUnitHalf:
    def test_by_hand(self):
        units, norms = unit_half(np.array([[3, 4], [0, -2], [0, 0]], np.int8))
        assert units.dtype == np.float16
        assert units.tolist() == [[np.float16(0.6), np.float16(0.8)], [0, -1], [0, 0]]
        assert norms.tolist() == [5, 2, 0]

    @given(matrices("f8"))
    def test_exact_arithmetic_says_the_same(self, vectors):
        """Over the whole range of double precision, denormal values included."""
        units, norms = unit_half(vectors)
        for row, unit, norm in zip(vectors, units, norms, strict=True):
            length, shift = exact_norm(row)
            scaled = [float(Fraction(float(value)) / Fraction(2) ** shift) for value in row]
            assert ulps(np.array([value / length for value in scaled]), unit) <= 1
            with np.errstate(over="ignore"):
                assert norm == pytest.approx(np.ldexp(length, shift), rel=1e-14)

    @given(matrices("f4"), st.integers(-250, 250))
    def test_a_power_of_two_changes_no_bit(self, vectors, exponent):
        wide = np.ldexp(vectors.astype(np.float64), exponent)
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        scaled = narrow if (narrow == wide).all() else wide
        ours, theirs = unit_half(vectors), unit_half(scaled)
        np.testing.assert_array_equal(ours.vectors.view(np.int16), theirs.vectors.view(np.int16))
        np.testing.assert_array_equal(np.ldexp(ours.norms, exponent), theirs.norms)

    @given(matrices("f8", min_value=-1, max_value=1), st.integers(-900, 1000))
    def test_nor_at_the_ends_of_the_range(self, vectors, exponent):
        scaled = np.ldexp(vectors, exponent)
        assume((np.ldexp(scaled, -exponent) == vectors).all())  # nothing is lost among the denormal values
        np.testing.assert_array_equal(unit_half(vectors).vectors, unit_half(scaled).vectors)

    @given(matrices("f4", min_value=2**-20, max_value=2**20), st.floats(2**-100, 2**100))
    def test_any_factor_changes_one_unit_in_the_last_place_at_most(self, vectors, factor):
        scaled = (vectors * np.float32(factor)).astype(np.float32)
        assert ulps(unit_half(vectors).vectors, unit_half(scaled).vectors) <= 1

    @pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", ">f8", "i1", "u1", ">i4", "u8"])
    def test_any_type_of_number(self, rng, dtype):
        vectors = rng.integers(1, 100, size=(20, 8))
        np.testing.assert_array_equal(unit_half(vectors.astype(dtype)).vectors, unit_half(vectors).vectors)
        np.testing.assert_array_equal(unit_half(vectors.astype(dtype)).norms, unit_half(vectors).norms)

    def test_blocks_and_memory_orders_give_the_same(self, rng, monkeypatch):
        vectors = rng.normal(size=(50, 100))
        whole = unit_half(vectors)
        monkeypatch.setattr(features, "BLOCK_VALUES", 700)
        for each in (vectors, np.asfortranarray(vectors), vectors[::-1][::-1]):
            np.testing.assert_array_equal(unit_half(each).vectors, whole.vectors)
            np.testing.assert_array_equal(unit_half(each).norms, whole.norms)
        assert len(unit_half(vectors[:0]).vectors) == 0


def test_rows_without_a_direction(monkeypatch):
    monkeypatch.setattr(features, "BLOCK_VALUES", 4)
    nan, inf = np.nan, np.inf
    rows = [[1, 2], [0, 0], [nan, 1], [3, 3], [inf, inf], [-0.0, 0], [5e-324, 0], [nan, nan], [-1, -1], [1e308, -1e308]]
    found = undirected_rows(np.array(rows))
    assert [positions.tolist() for positions in found] == [[2, 4, 7], [1, 5], [3, 8]]
    narrow = undirected_rows(np.array([[7], [0]], np.int8))
    assert [positions.tolist() for positions in narrow] == [[], [1], []]


def test_components_are_those_of_scikit_learn(rng):
    vectors = (rng.normal(size=(200, 6)) * [5, 4, 3, 2, 1, 0.5]).astype(np.float32)
    ours = PrincipalComponents(vectors, 4).project(vectors)
    theirs = PCA(4).fit_transform(vectors)
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours, theirs * signs, atol=1e-3)


def test_components_of_a_sample_project_all_rows(rng):
    vectors = rng.normal(size=(50, 4)).astype(np.float32)
    assert PrincipalComponents(vectors[:20], 2).project(vectors).shape == (50, 2)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.floats(0.05, 0.5), st.integers(0, 2**16))
def test_split_keeps_the_proportions(labels, fraction, seed):
    labels = np.array(labels)
    kept, held_out = stratified_split(labels, fraction, np.random.default_rng(seed))
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        out = int((labels[held_out] == label).sum())
        assert abs(out - fraction * count) <= 1
        if count > 1:
            assert 1 <= out < count


def test_a_split_of_single_labels_holds_one_out():
    kept, held_out = stratified_split(np.arange(4), 0.1, np.random.default_rng(0))
    assert (len(kept), len(held_out)) == (3, 1)
    assert stratified_split(np.array([0]), 0.1, np.random.default_rng(0))[1].size == 0
