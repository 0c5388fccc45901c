"""Where a run works. That it makes no difference to what comes out: test_interrupt.py."""

import subprocess
import sys

import pytest

from elfs_ray.config_loading import load_config
from elfs_ray.errors import UsageError
from elfs_ray.run.where import MOST_IN_PROCESS, check_where, works_on_ray


def configured(**options):
    return [load_config({"input": "photos", "num_classes": 2, "budgets": [1], **options})]


def test_a_small_run_imports_no_ray(small_input, tmp_path):
    code = (
        "import sys\nfrom elfs_ray import select\n"
        f"result = select({str(small_input[0])!r}, 3, method='random', out={str(tmp_path / 'run')!r})\n"
        "print(result.table.num_rows, result.manifest['hardware']['workers']['are'], 'ray' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "3 in this process False\n"


@pytest.mark.parametrize(
    ("options", "count", "on_ray"),
    [
        ({}, 300, False),
        ({}, MOST_IN_PROCESS, False),
        ({}, MOST_IN_PROCESS + 1, True),
        ({}, None, True),
        ({"ray.mode": "never"}, 10**6, False),
        ({"ray.mode": "always"}, 1, True),
        ({"ray.address": "head:6379"}, 300, True),
        ({"ray.num_gpus": 1}, 300, False),
        ({"ray.num_gpus": 2}, 300, True),
        ({"proxy.workers": 2}, 300, True),
        ({"proxy.workers": 1}, 300, False),
        ({"beta_search.scheduler": "asha"}, 300, True),
    ],
)
def test_what_decides(monkeypatch, options, count, on_ray):
    monkeypatch.setattr("elfs_ray.run.where._connected", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert works_on_ray(configured(**options), count) is on_ray


def test_a_cluster_that_is_named_or_connected_is_used(monkeypatch):
    monkeypatch.setattr("elfs_ray.run.where._connected", lambda: True)
    assert works_on_ray(configured(), 300)
    monkeypatch.setattr("elfs_ray.run.where._connected", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert works_on_ray(configured(), 300)
    assert not works_on_ray(configured(**{"ray.mode": "never"}), 300)


@pytest.mark.parametrize(
    ("option", "value"),
    [("ray.address", "head:6379"), ("pseudo_labels.workers", 2), ("beta_search.scheduler", "asha")],
)
def test_what_needs_ray_is_refused_without(option, value):
    line = f"{option}={value} needs Ray, and ray.mode is 'never'; leave one of the two out"
    with pytest.raises(UsageError, match=f"^{line}$"):
        check_where(configured(**{option: value, "ray.mode": "never"}))
