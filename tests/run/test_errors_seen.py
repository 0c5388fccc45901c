"""Errors of tasks, actors, training workers and trials: one line, the error's own, whatever Ray wraps around it."""

import errno
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from elfs_ray import select
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config_loading import load_config
from elfs_ray.errors import ElfsRayError, RunError, UsageError
from elfs_ray.planning import doctor
from elfs_ray.run.errors_seen import as_expected, behind, expected_errors
from elfs_ray.workers.base import Search, Source, Step
from elfs_ray.workers.on_ray import train

FULL = "ingest stopped: the disk is full (writing to {}); free some space and run the same command again"
CLOSED = "ingest stopped: {} ({}); change the permissions and run the same command again"
NO_MEMORY = "ingest ran out of memory; use a smaller batch, fewer actors, or a larger machine, and run again"
LOST = "ingest lost a worker too often ({}); run the same command again to go on from there"
LINE = "column 'x' of v.parquet holds nulls; fill them in"


def told(error):
    """Kind and text of the expected error behind another."""
    found = as_expected(error, "ingest", "/run")
    return None if found is None else (type(found), str(found))


def raised(error, cause=None, context=None):
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = cause is not None
    return error


class TestWithoutRay:
    @pytest.mark.parametrize(
        ("error", "kind", "line"),
        [
            (UsageError(LINE), UsageError, LINE),
            (raised(KeyError("x"), UsageError(LINE)), UsageError, LINE),
            (raised(KeyError("x"), context=RunError(LINE)), RunError, LINE),
            (raised(ValueError(), raised(KeyError("x"), context=UsageError(LINE))), UsageError, LINE),
            (raised(OSError(errno.ENOSPC, "full"), UsageError(LINE)), UsageError, LINE),
            (OSError(errno.ENOSPC, "No space", "/run/x"), UsageError, FULL.format("/run/x")),
            (OSError(errno.EDQUOT, "Quota"), UsageError, FULL.format("/run")),
            (OSError("Error writing. Detail: No space left on device"), UsageError, FULL.format("/run")),
            (raised(ValueError(), PermissionError(errno.EACCES, "no", "/a")), UsageError,
             CLOSED.format("Permission denied", "/a")),
            (OSError(errno.EROFS, "no"), UsageError, CLOSED.format("Read-only file system", "/run")),
            (MemoryError(), RunError, NO_MEMORY),
            (pa.ArrowMemoryError("malloc"), RunError, NO_MEMORY),
            (OSError(errno.ENOMEM, "no"), RunError, NO_MEMORY),
            (torch.OutOfMemoryError("CUDA"), RunError, NO_MEMORY),
        ],
    )  # fmt: skip
    def test_the_whole_line(self, error, kind, line):
        assert told(error) == (kind, line)

    @pytest.mark.parametrize("error", [KeyError("x"), FileNotFoundError(2, "no"), raised(KeyError(), ValueError())])
    def test_what_nobody_expects(self, error):
        assert told(error) is None
        assert behind(error)[0] is error
        with pytest.raises(type(error)) as caught, expected_errors("ingest", "/run"):
            raise error
        assert caught.value is error

    def test_a_class_of_the_same_name_is_another(self):
        class OutOfMemoryError(Exception):
            pass

        class WorkerCrashedError(Exception):
            pass

        assert told(OutOfMemoryError()) is None
        assert told(WorkerCrashedError("x")) is None

    def test_the_nearest_comes_first(self):
        far, near = RunError("far"), UsageError("near")
        assert told(raised(KeyError(), near, far)) == (UsageError, "near")
        assert told(raised(KeyError(), raised(near, far))) == (UsageError, "near")
        assert told(raised(KeyError(), OSError(errno.ENOSPC, "full"), far)) == (UsageError, FULL.format("/run"))

    def test_a_suppressed_context_is_none(self):
        error = KeyError()
        error.__context__, error.__suppress_context__ = UsageError(LINE), True
        assert told(error) is None

    def test_chains_that_bite_their_tail_end(self):
        one, two = KeyError("one"), ValueError("two")
        one.__cause__, two.__cause__, two.__context__ = two, one, two
        assert told(one) is None
        assert behind(one) == [one, two]
        two.__context__, two.__suppress_context__ = UsageError(LINE), False
        assert told(one) == (UsageError, LINE)

    def test_long_chains_end(self):
        error = UsageError(LINE)
        for number in range(5000):
            error = raised(KeyError(number), error)
        assert told(error) == (UsageError, LINE)

    def test_the_other_error_stays_as_cause(self):
        inner = OSError(errno.ENOSPC, "No space", "/x")
        with pytest.raises(UsageError) as caught, expected_errors("the run", "/"), expected_errors("ingest", "/run"):
            raise inner
        assert str(caught.value) == FULL.format("/x")
        assert caught.value.__cause__ is inner

    @pytest.mark.parametrize(
        "arguments", [["--help"], ["run", "--input=nowhere", "--budget=3", "--num-classes=2", "-oz"]]
    )
    def test_neither_help_nor_wrong_uses_import_ray(self, arguments, tmp_path):
        code = "import atexit, sys; atexit.register(lambda: print('ray' in sys.modules)); "
        code += f"sys.argv = ['elfs-ray', *{arguments!r}]; from elfs_ray.cli import main; main()"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == "False"
        assert done.returncode in (0, 2)


def wrapped_by_ray(error):
    from ray.exceptions import RayTaskError

    text = f'Traceback (most recent call last):\n  File "x"\n{type(error).__name__}: {error}'
    return RayTaskError("task", text, error)


class TestRaysOwn:
    """Ray's exceptions as they reach the driver, made without a Ray that runs."""

    @pytest.fixture(params=["task", "instance of the cause", "nested", "actor's constructor", "worker", "controller"])
    def wrap(self, request):
        import ray.train
        from ray.exceptions import ActorDiedError

        return {
            "task": wrapped_by_ray,
            "instance of the cause": lambda error: wrapped_by_ray(error).as_instanceof_cause(),
            "nested": lambda error: wrapped_by_ray(wrapped_by_ray(error).as_instanceof_cause()).as_instanceof_cause(),
            "actor's constructor": lambda error: ActorDiedError(wrapped_by_ray(error)),
            "worker": lambda error: ray.train.WorkerGroupError("two\nlines", {1: error, 0: KeyError("x")}),
            "controller": lambda error: ray.train.ControllerError(wrapped_by_ray(error)),
        }[request.param]

    @pytest.mark.parametrize(
        ("error", "kind", "line"),
        [
            (UsageError(LINE), UsageError, LINE),
            (RunError(LINE), RunError, LINE),
            (OSError(errno.ENOSPC, "No space", "/x"), UsageError, FULL.format("/x")),
            (MemoryError("Unable to allocate"), RunError, NO_MEMORY),
        ],
    )
    def test_the_whole_line(self, wrap, error, kind, line):
        assert told(wrap(error)) == (kind, line)
        assert told(raised(ValueError(), wrap(error))) == (kind, line)
        with pytest.raises(ElfsRayError) as caught, expected_errors("ingest", "/run"):
            raise wrap(error)
        assert (type(caught.value), str(caught.value)) == (kind, line)

    def test_the_error_of_a_bug_is_near(self):
        bug = KeyError("x")
        assert behind(wrapped_by_ray(bug).as_instanceof_cause())[0] is bug
        assert told(wrapped_by_ray(bug).as_instanceof_cause()) is None

    def test_a_cause_that_is_itself(self):
        error = wrapped_by_ray(KeyError("x"))
        error.cause = error
        assert told(error) is None
        assert behind(error)[0] is error

    def test_known_kinds(self):
        from ray import exceptions

        lost = {
            exceptions.WorkerCrashedError(): "The worker died unexpectedly while executing this task. Check "
            "python-core-worker-*.log files for more information.",
            exceptions.ActorDiedError(): "The actor died unexpectedly before finishing this task.",
            exceptions.NodeDiedError("the node is gone\nand more"): "the node is gone",
        }
        for error, line in lost.items():
            kind, text = told(error)
            assert (kind, text) == (RunError, LOST.format(line))
        kind, text = told(exceptions.ObjectLostError("a" * 56, None, "f"))
        assert (kind, text.count("\n")) == (RunError, 0)
        assert told(exceptions.OutOfMemoryError("much")) == (RunError, NO_MEMORY)
        assert told(exceptions.ObjectStoreFullError("full")) == (RunError, NO_MEMORY)
        assert told(exceptions.OutOfDiskError("full")) == (UsageError, FULL.format("Ray's folder for temporary files"))


def refusing():
    """What Ray sends to its workers whole, since they need not find this file: a function, and a class for actors."""

    def refuse(*_):
        raise UsageError(LINE)

    class Refusing:
        def __init__(self, in_constructor=False):
            if in_constructor:
                refuse()

        def __call__(self, _=None):
            refuse()

    return refuse, Refusing


def from_task(workers, store):
    workers.call(refusing()[0], cpus=0)


def from_argument(workers, store):
    workers.call(lambda value: value, workers.begin(refusing()[0], cpus=0), cpus=0)


def from_map(workers, store):
    list(workers.map(refusing()[0], [(1,), (2,)], cpus=0.5))


def from_pool(workers, store):
    workers.pool(refusing()[1], [()], cpus=0).ask("__call__")


def from_constructor(workers, store):
    workers.pool(refusing()[1], [(True,)], cpus=0).ask("__call__")


def streamed(workers, function, **options):
    """All batches of a stream with one step."""
    source = Source(lambda item: iter([pa.table({"number": [item]})]), [1, 2], 0.5, 2**20)
    return list(workers.stream(source, Step(function, 1, {}, 0.5, **options), block_bytes=2**20))


def from_stream(workers, store):
    streamed(workers, refusing()[0])


def from_holder_in_a_stream(workers, store):
    streamed(workers, refusing()[1], holders=1)


def from_training(workers, store):
    refuse = refusing()[0]
    workers.train(lambda task, training: refuse(), None, store, "work", 1)


def from_trial(workers, store):
    refuse = refusing()[0]
    search = Search("score", parts=1, keep=0, gpus=0, max_failures=0, name=str, logs="logs")
    data = workers.share(None)
    workers.trials(lambda *_: refuse(), data, ["a"], search, print, store=store, work="work")


@pytest.mark.parametrize(
    "call",
    [
        *(from_task, from_argument, from_map, from_pool, from_constructor),
        *(from_stream, from_holder_in_a_stream, from_training, from_trial),
    ],
)
def test_from_wherever_it_is_raised(ray_session, tmp_path, capfd, monkeypatch, call):
    monkeypatch.setattr(train, "MAX_WORKER_FAILURES", 0)
    with pytest.raises(UsageError) as caught, expected_errors("ingest", "/run"):
        call(ray_session, RunFolder(str(tmp_path)))
    assert type(caught.value) is UsageError
    assert str(caught.value) == LINE
    assert capfd.readouterr().err == ""


def test_the_doctor_says_it(ray_session, monkeypatch):
    monkeypatch.setattr(doctor, "_ray", lambda _: from_task(ray_session, None))
    config = load_config({"input": doctor.NO_INPUT, "num_classes": 2, "budgets": [1]})
    finding = [each for each in doctor.examine(config) if each.name == "ray"][-1]  # the first is the library
    found = finding.state, finding.seen, finding.remedy
    assert found == ("bad", "column 'x' of v.parquet holds nulls", "fill them in")


@pytest.mark.parametrize(
    ("raised_there", "line"),
    [
        ("OSError(28, 'No space left on device')", FULL.format("/run")),
        ("OSError(28, 'No space left on device', '/x')", FULL.format("/run")),
        ("PermissionError(13, 'no', '/x')", CLOSED.format("Permission denied", "/run")),
        ("MemoryError('Unable to allocate')", NO_MEMORY),
    ],
)
def test_known_kinds_from_a_step(ray_session, capfd, raised_there, line):
    """Ray Data writes over the name of the file; the run folder stands for it."""

    def fail(batch):
        raise eval(raised_there)

    with pytest.raises(ElfsRayError) as caught, expected_errors("ingest", "/run"):
        streamed(ray_session, fail)
    assert str(caught.value) == line
    assert capfd.readouterr().err == ""


def test_the_bug_of_a_step(ray_session):
    with pytest.raises(KeyError) as caught:
        streamed(ray_session, lambda batch: batch["no such key"])
    assert [(type(each), str(each)) for each in behind(caught.value)[:1]] == [(KeyError, "'no such key'")]


def write_picture(path):
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path)


@pytest.fixture
def repeated(tmp_path):
    """A table of images in which two rows have one id, and the line that says so."""
    write_picture(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    pq.write_table(pa.table({"id": ["a", "b", "a"], "image": [data] * 3}), tmp_path / "i.parquet")
    return (
        tmp_path / "i.parquet",
        f"sample id 'a' stands 2 times in {tmp_path}/i.parquet (1 ids are repeated); " + REPEATED,
    )


REPEATED = "ids must be unique: fix them, or name another column of a table with --set ingest.id_column=NAME"
NEEDED = ("--budget", "1", "--num-classes", "2", "--until", "ingest")


class TestThroughTheCommandLine:
    def test_a_repeated_id(self, ray_session, call, repeated, tmp_path):
        path, line = repeated
        code, _, err = call("run", "--input", path, "--out", tmp_path / "run", *NEEDED)
        assert err == f"elfs-ray: {line}\n"
        assert code == 2

    def test_too_many_bad_images(self, ray_session, call, tmp_path):
        (tmp_path / "images").mkdir()
        for number in range(3):
            write_picture(tmp_path / "images" / f"{number}.png")
        (tmp_path / "images" / "3.png").write_bytes(b"x" * 40)
        code, _, err = call("run", "--input", tmp_path / "images", "--out", tmp_path / "run", *NEEDED)
        assert err == (
            "elfs-ray: 1 of 4 inputs (25.0%) cannot be used, more than ingest.max_bad_fraction=0.05; the first is "
            "'3.png': not an image, or of a kind that Pillow does not read; fix or remove them, or raise the limit "
            "with --set ingest.max_bad_fraction=...\n"
        )
        assert code == 2

    @pytest.mark.parametrize("option", ["--debug", "--verbose"])
    def test_the_whole_on_demand(self, ray_session, call, repeated, tmp_path, option):
        path, line = repeated
        code, _, err = call("run", "--input", path, "--out", tmp_path / "run", *NEEDED, option)
        assert code == 2
        assert err.endswith(f"elfs-ray: {line}\n")
        assert "RayTaskError" in err
        assert "_refuse_duplicates" in err

    def test_from_python(self, ray_session, repeated, tmp_path):
        path, line = repeated
        with pytest.raises(UsageError) as caught:
            select(path, budget=1, num_classes=2, out=tmp_path / "run")
        assert (type(caught.value), str(caught.value)) == (UsageError, line)

    def test_a_folder_that_may_not_be_written(self, ray_session, call, ordinary_user, tmp_path, monkeypatch):
        """The tasks run with the rights of whoever started Ray: so a file stands in the place of a folder."""
        (tmp_path / "images").mkdir()
        write_picture(tmp_path / "images" / "0.png")
        from elfs_ray.stages import ingest

        def closed(*_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/run/samples")

        monkeypatch.setattr(ingest, "_write_part", closed)
        code, _, err = call("run", "--input", tmp_path / "images", "--out", tmp_path / "run", *NEEDED)
        assert err == (
            "elfs-ray: ingest stopped: Permission denied (/data/run/samples); change the permissions and run the same "
            "command again\n"
        )
        assert code == 2

    def test_a_bug_in_a_task(self, ray_session, call, tmp_path, monkeypatch):
        (tmp_path / "images").mkdir()
        write_picture(tmp_path / "images" / "0.png")
        from elfs_ray.stages import ingest

        monkeypatch.setattr(ingest, "_write_part", lambda *_: {}["no such key"])
        code, _, err = call("run", "--input", tmp_path / "images", "--out", tmp_path / "run", *NEEDED)
        assert err == "elfs-ray: unexpected KeyError: 'no such key'; add --debug for details, and report them\n"
        assert code == 1
