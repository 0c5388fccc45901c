"""What stage bodies may count on, whoever does the work."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from board_logs import logged
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.workers.base import Search, Source, Step
from elfs_ray.workers.hardware import Memory


@pytest.fixture(params=["in_process", "ray_session"])
def workers(request):
    return request.getfixturevalue(request.param)


def halves(values):
    return values[: len(values) // 2], values[len(values) // 2 :]


class Holder:
    def __init__(self, values, factor):
        self._values = values * factor

    def times(self, other):
        return (self._values * other).tolist()


def test_results_stay_with_the_workers_until_they_are_asked_for(workers):
    """A handle is an argument like its value; inside of other arguments it is asked there."""
    first, second = workers.begin_several(halves, workers.share(np.arange(6)), results=2, cpus=0)
    total = workers.begin(
        lambda ours, theirs: int(ours.sum() + 10 * theirs["it"].result().sum()), first, {"it": second}
    )
    assert workers.results([total, first])[0] == 3 + 10 * 12
    assert total.ended
    assert workers.call(lambda value: value + 1, total) == 124


def test_a_map_takes_items_as_there_is_room_and_gives_results_in_order(workers):
    taken = []

    def items():
        for number in range(8):
            taken.append(number)
            yield number, -number

    results = workers.map(
        lambda base, one, other: base + 2 * one + other, items(), workers.share(100), cpus=0.5, at_once=3
    )
    assert not taken
    assert next(results) == 100
    assert taken == [0, 1, 2]
    assert list(results) == [100 + number for number in range(1, 8)]


def test_a_pool_holds_an_object_for_each_of_its_arguments(workers):
    """A task may ask it, too."""
    pool = workers.pool(Holder, [(workers.share(np.array([1, 2])), factor) for factor in (1, 10)], cpus=0)
    assert pool.ask("times", 3) == [[3, 6], [30, 60]]
    assert workers.call(lambda asked: asked.ask("times", np.array([1, 0])), pool) == [[1, 0], [10, 0]]
    pool.end()


def test_every_machine_is_reached(workers, tmp_path):
    workers.on_each_machine(Path.touch, tmp_path / "here")
    assert (tmp_path / "here").exists()


def test_what_is_there_to_plan_with(workers):
    assert isinstance(workers.memory(), Memory)
    assert workers.call(lambda threads: threads(), workers.threads()) == 2
    assert workers.call(lambda threads: threads(), workers.threads(2)) == 1


def numbers(item):
    yield pa.table({"number": np.arange(item * 10, item * 10 + 10)})


def doubled(table):
    return {"number": 2 * table["number"].to_numpy()}


class Added:
    def __init__(self, to):
        self._to = to

    def __call__(self, batch):
        return {"number": batch["number"] + self._to, "rows": np.full(len(batch["number"]), len(batch["number"]))}


def test_a_stream_cuts_what_it_reads_to_the_rows_that_each_step_asks_for(workers):
    found = workers.stream(
        Source(numbers, [0, 1, 2], 0.5, 0),
        Step(doubled, 4, {}, 0.5, as_table=True),
        Step(Added, 7, {"to": 100}, 0.5, holders=1),
        block_bytes=2**20,
    )
    batches = list(found)
    together = np.sort(np.concatenate([batch["number"] for batch in batches]))
    assert together.tolist() == [100 + 2 * number for number in range(30)]
    assert max(int(batch["rows"].max()) for batch in batches) <= 7


def fails(*_):
    raise ValueError("a step fails")


def test_an_error_in_a_stream_ends_it(workers):
    steps = Step(fails, 4, {}, 0.5, as_table=True), Step(Added, 7, {"to": 1}, 0.5, holders=1)
    with pytest.raises(ValueError, match="a step fails"):
        list(workers.stream(Source(numbers, [0, 1], 0.5, 0), *steps, block_bytes=2**20))


def test_an_error_of_a_task_comes_where_its_result_is_taken(workers):
    tasks = [workers.begin(fails, cpus=cpus) for cpus in (0, 1)]
    for task in [*tasks, *workers.begin_several(fails, results=2)]:
        with pytest.raises(ValueError, match="a step fails"):
            task.result()


def counts(task, training):
    """Three epochs, one in each run: what was done before comes from the checkpoint."""
    state = {"seen": 0}
    done = training.load(state.update)
    training.save({"epoch": done}, {"seen": state["seen"] + task}, done + 1)
    if training.is_first:
        training.tell({"done": done + 1, "seen": state["seen"] + task, "device": training.device.type})


@pytest.mark.slow
def test_a_training_goes_on_from_its_checkpoint(workers, tmp_path):
    store = RunFolder(str(tmp_path))
    told = [workers.train(counts, 10, store, "work", 1) for _ in range(2)]
    assert told == [{"done": run, "seen": 10 * run, "device": "cpu"} for run in (1, 2)]


def trial(shared, config):
    for part in range(2):
        yield {"score": shared * config["number"] + part, "seeds": {"0": {"score": 1.5}}, "done": part == 1}


def test_trials_are_judged_by_their_last_report_and_leave_logs(workers, tmp_path):
    store, ended = RunFolder(str(tmp_path)), {}
    search = Search("score", 2, 0, 0.0, 1, lambda config: f"trial-{config['number']}", "logs/search")
    configs = [{"number": number} for number in range(3)]
    given = workers.share(100), configs, search, lambda config, report: ended.update({config["number"]: report})
    workers.trials(trial, *given, store=store, work="work")
    assert {number: report["score"] for number, report in ended.items()} == {0: 1, 1: 101, 2: 201}
    for number in range(3):
        folder = tmp_path / f"work/logs/search/trial-{number}"
        assert logged(folder, "score") == [100 * number, 100 * number + 1]
        assert logged(folder, "seeds/0/score") == [1.5, 1.5]
