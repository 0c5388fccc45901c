import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from elfs_ray.core.features import PrincipalComponents, normalize_rows
from elfs_ray.core.splits import stratified_split


def test_rows_have_unit_length_and_zeros_stay(rng):
    vectors = rng.normal(size=(5, 3)).astype(np.float16)
    vectors[2] = 0
    rows = normalize_rows(vectors)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 1, 1], rtol=1e-6)


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
