"""Rows on a device or fed to it: the same batches either way."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elfs_ray.core.device_rows import DeviceRows, Room

CPU = torch.device("cpu")


def fed(rows, **options):
    placed = DeviceRows(rows, Room(CPU), **options)
    placed.resident = False
    return placed


@given(st.lists(st.lists(st.integers(0, 19), max_size=5), max_size=8))
def test_batches_are_the_rows_asked_for(wanted):
    rows = torch.arange(40, dtype=torch.float32).reshape(20, 2)
    positions = [torch.tensor(batch, dtype=torch.int64) for batch in wanted]
    for placed in (DeviceRows(rows, Room(CPU)), fed(rows)):
        found = list(placed.batches(positions))
        assert len(found) == len(wanted)
        assert all(
            torch.equal(batch, rows[batch_positions]) for batch, batch_positions in zip(found, positions, strict=True)
        )


@pytest.mark.parametrize("place", [lambda rows, **options: DeviceRows(rows, Room(CPU), **options), fed])
def test_rows_are_held_in_the_type_asked_for(place):
    placed = place(torch.rand(4, 3), dtype=torch.float16)
    assert placed.take(torch.tensor([1])).dtype == torch.float16
    assert next(placed.batches([torch.tensor([0, 2])])).dtype == torch.float16


@pytest.mark.parametrize("place", [lambda rows: DeviceRows(rows, Room(CPU)), fed])
def test_one_value_of_a_row(place):
    rows = torch.arange(12).reshape(4, 3)
    assert place(rows).take(torch.tensor([3, 0, 3]), torch.tensor([0, 2, 1])).tolist() == [9, 2, 10]


def test_a_loop_that_stops_early_leaves_no_thread():
    import threading

    batches = fed(torch.rand(100, 2)).batches(list(torch.arange(100).split(5)))
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_room_is_given_out_once():
    room = Room(CPU, limit=100)
    assert [room.take(60), room.take(60), room.take(40), room.take(1)] == [True, False, True, False]
