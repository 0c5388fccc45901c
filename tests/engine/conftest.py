"""One small run, shared by the tests that look at its results."""

import pytest

from elfs_ray import select
from small import BUDGET, OPTIONS, write_small_input


@pytest.fixture(scope="session")
def small_input(tmp_path_factory):
    return write_small_input(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def small_run(ray_session, small_input, tmp_path_factory):
    """Result of the whole pipeline on the small input."""
    images, labels = small_input
    return select(
        images,
        budget=BUDGET,
        num_classes=10,
        out=tmp_path_factory.mktemp("runs") / "small",
        **OPTIONS,
        **{"evaluate.labels": str(labels)},
    )
