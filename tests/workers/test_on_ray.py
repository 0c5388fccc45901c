"""What stage bodies may count on, whoever does the work."""

from pathlib import Path

import numpy as np

from elfs_ray.workers.hardware import Memory


def halves(values):
    return values[: len(values) // 2], values[len(values) // 2 :]


class Holder:
    def __init__(self, values, factor):
        self._values = values * factor

    def times(self, other):
        return (self._values * other).tolist()


def test_results_stay_with_the_workers_until_they_are_asked_for(ray_session):
    """A handle is an argument like its value; inside of other arguments it is asked there."""
    first, second = ray_session.begin_several(halves, ray_session.share(np.arange(6)), results=2, cpus=0)
    total = ray_session.begin(
        lambda ours, theirs: int(ours.sum() + 10 * theirs["it"].result().sum()), first, {"it": second}
    )
    assert ray_session.results([total, first])[0] == 3 + 10 * 12
    assert total.ended
    assert ray_session.call(lambda value: value + 1, total) == 124


def test_a_map_takes_items_as_there_is_room_and_gives_results_in_order(ray_session):
    taken = []

    def items():
        for number in range(8):
            taken.append(number)
            yield number, -number

    results = ray_session.map(
        lambda base, one, other: base + 2 * one + other, items(), ray_session.share(100), cpus=0.5, at_once=3
    )
    assert not taken
    assert next(results) == 100
    assert taken == [0, 1, 2]
    assert list(results) == [100 + number for number in range(1, 8)]


def test_a_pool_holds_an_object_for_each_of_its_arguments(ray_session):
    """A task may ask it, too."""
    pool = ray_session.pool(Holder, [(ray_session.share(np.array([1, 2])), factor) for factor in (1, 10)], cpus=0)
    assert pool.ask("times", 3) == [[3, 6], [30, 60]]
    assert ray_session.call(lambda asked: asked.ask("times", np.array([1, 0])), pool) == [[1, 0], [10, 0]]
    pool.end()


def test_every_machine_is_reached(ray_session, tmp_path):
    ray_session.on_each_machine(Path.touch, tmp_path / "here")
    assert (tmp_path / "here").exists()


def test_what_is_there_to_plan_with(ray_session):
    assert isinstance(ray_session.memory(), Memory)
    assert ray_session.call(lambda threads: threads(), ray_session.threads()) == 2
    assert ray_session.call(lambda threads: threads(), ray_session.threads(2)) == 1
