"""What all tests share: one Ray, one way of drawing random numbers, no deadlines."""

import contextlib
import os
import shutil
import signal
import sys

import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from object_storage import ENVIRONMENT, FOREIGN, running_server

# Before Ray starts: its processes keep the environment that they started with.
os.environ.update(ENVIRONMENT)
# `make test` runs two processes of tests on two processors.
os.environ["LOKY_MAX_CPU_COUNT"] = "1"
# A thread that waits for another one by spinning would keep the processor from it. Read when torch is loaded.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ.pop("COLUMNS", None)  # pytest-xdist's, of its own terminal
for _name in FOREIGN:
    os.environ.pop(_name, None)

# Started in the background of a shell, the tests would ignore Ctrl-C, and so would the processes that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Checks the shapes and types of arrays that annotations declare, in modules imported from here on: so what imports the
# package is not imported above. An int passes for a float, as in type checkers. Processes of Ray check nothing.
install_import_hook(
    ["elfs_ray.core", "elfs_ray.methods"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# Machines are shared: a test says what is right, never how long it takes. The same examples on every run.
settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("default")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Mark what uses the suite's Ray; cut the tests into groups, of which a process runs one after the other."""
    for item in items:
        named = item.callspec.params.values() if hasattr(item, "callspec") else ()
        on_ray = "ray_session" in item.fixturenames or "ray_session" in [
            each for each in named if isinstance(each, str)
        ]
        if on_ray:
            item.add_marker(pytest.mark.ray)
        is_slow = item.get_closest_marker("slow") is not None
        group = "ray" if on_ray else f"{item.path.stem}-slow" if is_slow else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
    # What takes longest begins first, so that the processes end together.
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, item.get_closest_marker("slow") is None))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def call(monkeypatch, capfd):
    """Run the command line in this process; returns exit status, standard output and standard error."""
    from elfs_ray import cli

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None, raising=False)  # the program's name in hints

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["elfs-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capfd.readouterr()
        return ended.value.code, captured.out, captured.err

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def card(monkeypatch):
    """Fake tensors of a graphics card can be made, and used as if there were one."""
    from fake_card import fake_card

    with fake_card(monkeypatch) as mode:
        yield mode


_suites_ray = contextlib.ExitStack()


@pytest.fixture(autouse=True)
def _no_ray_without_need(request):
    """A run in a process that is connected to a Ray works there: the suite's ends before the first test without it."""
    if request.node.get_closest_marker("ray") is None:
        _suites_ray.close()


@pytest.fixture(scope="session")
def ray_session():
    """One small local Ray for all tests that ask for it; they come one after the other."""
    from elfs_ray.config import RayConfig
    from elfs_ray.workers.on_ray.session import ray_session

    with _suites_ray:
        yield _suites_ray.enter_context(ray_session(RayConfig(num_cpus=2, object_store_mb=200)))


@pytest.fixture(scope="session")
def in_process():
    """Workers on two threads of this process."""
    from elfs_ray.config import RayConfig
    from elfs_ray.workers.in_process.session import in_process_session

    with in_process_session(RayConfig(num_cpus=2)) as workers:
        yield workers


@pytest.fixture
def ordinary_user(tmp_path):
    """A block that runs without the rights of root, whom no permission stops."""
    nobody = 65534

    @contextlib.contextmanager
    def run_as():
        if os.getuid() != 0:
            yield
            return
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o111)
        os.setresuid(nobody, nobody, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)

    return run_as


@pytest.fixture(scope="session")
def object_storage(tmp_path_factory):
    """A server that speaks S3, with the bucket `photos`."""
    with running_server(tmp_path_factory.mktemp("object-storage") / "log") as storage:
        storage.filesystem.create_dir("photos")
        yield storage


@pytest.fixture(scope="session")
def small_input(tmp_path_factory):
    """Folder of images and file of labels."""
    from small import write_small_input

    return write_small_input(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def small_run(small_input, tmp_path_factory):
    """Result of the whole pipeline on the small input, shared by the tests that look at it and change nothing."""
    from elfs_ray import select
    from elfs_ray.artifacts import writing
    from small import BUDGET, OPTIONS, sections

    images, labels = small_input
    out = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        # Several parts of each large artifact.
        patch.setattr(writing, "PART_BYTES", 30_000)
        patch.setattr(writing, "ROW_GROUP_ROWS", 50)
        options = sections({**OPTIONS, "evaluate.labels": str(labels), "ray.mode": "never"})
        return select(images, BUDGET, num_classes=10, out=out, **options)


@pytest.fixture
def choose(small_run, small_input, tmp_path):
    """Select with other options in a copy of the small run; the long stages must not run again."""
    from elfs_ray import select
    from small import BUDGET, LONG_STAGES, OPTIONS, sections

    run_dir = shutil.copytree(small_run.run_dir, tmp_path / "run")

    def run(budget=BUDGET, **changes):
        result = select(small_input[0], budget, num_classes=10, out=run_dir, **sections({**OPTIONS, **changes}))
        before = small_run.manifest["records"]
        assert all(result.manifest["records"][stage] == before[stage] for stage in LONG_STAGES)
        return result

    return run
