"""What the doctor says of this machine, and of what is wrong on it."""

import pytest
import torch

from elfs_ray import doctor
from elfs_ray.config import load_config
from elfs_ray.doctor import LIBRARIES, NO_INPUT, examine
from elfs_ray.engine import session


def findings(**options):
    config = load_config({"input": NO_INPUT, "num_classes": 2, "budgets": [1], **options})
    return {finding.name: finding for finding in examine(config)}


def test_all_is_well_here(ray_session, small_input):
    found = findings(input=str(small_input[0]))
    assert [one for one in found.values() if one.state == "bad"] == []
    assert set(LIBRARIES) < found.keys()
    assert found["encoder"].seen == "efficientnet-lite0: 1280 values for an image of 224 pixels"
    assert "2 processors" in found["ray"].seen
    assert found["input"].seen.startswith("240 files or rows (folder)")


@pytest.mark.parametrize(
    ("options", "name", "seen", "remedy"),
    [
        ({"embed.weights": "/none.pt"}, "encoder", "weights file /none.pt does not exist", "check the path"),
        ({"embed.encoder": "efficientnet-lite"}, "encoder", "unknown encoder", "choose one of efficientnet-lite0"),
        ({"input": "/none"}, "input", "/none does not exist", "check the path"),
    ],
)
def test_what_is_wrong_has_a_remedy(ray_session, options, name, seen, remedy):
    found = findings(**options)[name]
    assert found.state == "bad"
    assert found.seen.startswith(seen)
    assert found.remedy.startswith(remedy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has half precision")
@pytest.mark.parametrize(("has", "state", "default"), [(True, "ok", "bfloat16"), (False, "weak", "float32")])
def test_arithmetic_that_processors_lack(ray_session, monkeypatch, has, state, default):
    monkeypatch.setattr(session, "has_bfloat16", lambda: has)
    assert findings()["gpu"].seen.endswith(f"networks on images in {default}")
    assert findings(**{"embed.dtype": "bfloat16"})["gpu"].state == state


def test_little_room_is_weak(ray_session, monkeypatch):
    for name in ("MIN_FREE_DISK", "MIN_MEMORY", "MIN_SHARED"):
        monkeypatch.setattr(doctor, name, 2**60)
    found = findings()
    for name in ("memory", "shared memory", "temporary files"):
        assert (found[name].state, bool(found[name].remedy)) == ("weak", True)
