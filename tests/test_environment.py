"""Where a run runs: users without a name or a home, installations that nobody writes to, modules that hide others."""

import ast
import os
import site
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import pytest

from elfs_ray.artifacts.embeddings import Embeddings
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from elfs_ray.core import graph, ranking, zcore
from elfs_ray.errors import UsageError
from elfs_ray.workers import machine, search_path
from elsewhere import ASCII, NAMELESS, ROOT, give_to, run_python
from small import OPTIONS

STANDARD = sysconfig.get_path("stdlib")


@pytest.fixture
def hiding(tmp_path):
    """A folder with files that nobody may import."""
    folder = tmp_path / "hiding"
    folder.mkdir()
    for name in ("statistics.py", "random.py", "dataclasses.py", "pickle.py", "torch.py"):
        (folder / name).write_text(f"raise RuntimeError('{name} was imported')\n", encoding="utf-8")
    return folder


@pytest.fixture
def room():
    """A folder of the nameless user, for all that a process writes; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="room-") as name:
        if os.getuid() == 0:
            give_to(NAMELESS, Path(name))
        yield Path(name)


@pytest.fixture
def closed(tmp_path):
    """A folder that may be looked into and not written to, by anybody but root."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    return folder


# Where modules are looked for.


def test_what_hides_pythons_own_modules(tmp_path):
    compiled = "_csv.cpython-311-x86_64-linux-gnu.so"
    for name in ("statistics.py", "random.pyc", compiled, "mine.py", "random.txt", "csv.v2.py"):
        (tmp_path / name).touch()
    for name in ("json", "html", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "json" / "__init__.py").touch()
    found = search_path.hidden_by(str(tmp_path))
    assert {module: Path(path).name for module, path in found.items()} == {
        "_csv": compiled,
        "json": "json",
        "random": "random.pyc",
        "statistics": "statistics.py",
    }
    assert search_path.hidden_by(str(tmp_path / "none")) == {}


def started(monkeypatch, folder, path, *, named=""):
    """This process as one that was started in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setattr(sys, "argv", [str(folder / "script.py")])
    monkeypatch.setenv("PYTHONPATH", str(named))


@pytest.mark.parametrize("first", ["", None])
def test_pythons_own_modules_come_first_and_the_working_directory_last(monkeypatch, tmp_path, first):
    here = str(tmp_path) if first is None else first
    started(monkeypatch, tmp_path, [here, "/plugin", STANDARD, f"{STANDARD}/lib-dynload", "/site-packages"])
    with search_path.StandardLibraryFirst():
        assert sys.path == [STANDARD, f"{STANDARD}/lib-dynload", "/plugin", "/site-packages", here]
        sys.path.insert(0, "/added")  # as Ray does when it is imported
    assert sys.path == ["/added", here, "/plugin", STANDARD, f"{STANDARD}/lib-dynload", "/site-packages"]


def test_a_folder_that_pythonpath_names_stays_before_the_installed_packages(monkeypatch, tmp_path):
    started(monkeypatch, tmp_path, [str(tmp_path), STANDARD, "/site-packages"], named=tmp_path)
    search_path.put_standard_library_first()
    assert sys.path == [STANDARD, str(tmp_path), "/site-packages"]


def test_workers_here_look_for_this_package_before_an_installed_copy(monkeypatch, tmp_path):
    packages = site.getsitepackages()[0]
    started(monkeypatch, tmp_path, ["", packages, STANDARD])
    assert search_path.of_local_workers() == [STANDARD, str(ROOT), packages, str(tmp_path)]


def test_workers_elsewhere_look_into_no_folder_that_hides_a_module(monkeypatch, tmp_path, hiding):
    for folder, expected in ((hiding, [str(ROOT)]), (tmp_path, [str(tmp_path), str(ROOT)])):
        started(monkeypatch, folder, [STANDARD])
        assert search_path.of_other_workers() == expected


def test_commands_where_files_hide_modules(hiding):
    ended = run_python("-m", "elfs_ray.cli", "methods", cwd=hiding)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("method")


def test_a_script_beside_files_that_hide_modules(hiding):
    """It gets the error of its own input, and its search path back."""
    (hiding / "script.py").write_text(
        "import sys\n"
        "before = sys.path[:]\n"
        "from elfs_ray import select\n"
        "try:\n"
        "    select('none', budget=1, num_classes=2, out='run')\n"
        "except Exception as error:\n"
        "    print(error, sys.path == before)\n",
        encoding="utf-8",
    )
    ended = run_python("script.py", cwd=hiding)
    told = f"{hiding}/none does not exist; check the path"
    assert (ended.stdout.startswith(told), ended.stdout[-6:], ended.stderr) == (True, " True\n", ""), ended.stdout


def test_a_module_that_a_script_imported_in_place_of_pythons_own(tmp_path):
    (tmp_path / "colorsys.py").touch()
    (tmp_path / "script.py").write_text("import colorsys\nfrom elfs_ray import select\n", encoding="utf-8")
    ended = run_python("script.py", cwd=tmp_path)
    assert ended.stderr.splitlines()[-1] == (
        f"elfs_ray.errors.UsageError: {tmp_path}/colorsys.py was imported in place of Python's own module 'colorsys'; "
        "give it another name"
    )


def test_pythonpath_that_hides_a_module_from_workers(monkeypatch, hiding):
    monkeypatch.setenv("PYTHONPATH", str(hiding))
    with pytest.raises(UsageError) as caught:
        search_path.refuse_hidden_from_workers()
    assert str(caught.value) == (
        f"{hiding}/dataclasses.py hides Python's own module 'dataclasses' from Ray's processes, because PYTHONPATH "
        "names its folder; give it another name, or take the folder out of PYTHONPATH"
    )


def test_pythonpath_that_hides_a_module_nobody_needs(monkeypatch, tmp_path):
    assert "this" not in sys.modules
    (tmp_path / "this.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    search_path.refuse_hidden_from_workers()


PLUGIN = """
from elfs_ray.methods.random import Random

class Here(Random):
    name = "here"
"""


def write_plugin(folder):
    """A method in the working directory, known by the metadata beside it, as a checkout that is developed has it."""
    (folder / "here_plugin.py").write_text(PLUGIN, encoding="utf-8")
    metadata = folder / "here_plugin.egg-info"
    metadata.mkdir()
    (metadata / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: here-plugin\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[elfs_ray.methods]\nhere = here_plugin:Here\n", encoding="utf-8")


def test_a_run_where_files_hide_modules_and_a_plugin_lies(hiding, small_input):
    """The driver, its workers and Train's take Python's own modules, and the plug-in that lies there."""
    write_plugin(hiding)
    required = ["--input", small_input[0], "--budget=5", "--num-classes=10", "--out=run", "--method=here,stratified"]
    small = [
        "--set=embed.image_size=64",
        "--set=pseudo_labels.heads=2",
        "--set=pseudo_labels.epochs=2",
        "--set=ray.num_cpus=2",
        "--set=ray.mode=always",
    ]
    ended = run_python(
        "-m", "elfs_ray.cli", "run", *required, *small, "--until=select", "--log=quiet", cwd=hiding, HOME=hiding.parent
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    run = RunFolder(str(hiding / "run"))
    assert [Table(run, f"coresets/{name}/5").rows for name in ("here", "stratified")] == [5, 5]


# Users, homes and caches.


@pytest.mark.slow
def test_a_run_of_somebody_without_a_name_a_home_or_a_terminal(room, small_run, small_input):
    """With images, run folder and temporary folder whose names no ascii terminal can show.

    And with one processor, on which reading, decoding and encoding wait for each other, but not for ever.
    """
    images, temporary = room / "Bilder für Käse", room / "tmp ü"
    temporary.mkdir()
    images.mkdir()
    for image in small_input[0].iterdir():
        (images / f"ä{image.name}").write_bytes(image.read_bytes())
    give_to(NAMELESS, room)
    required = ["--input", images, "--budget=4", "--num-classes=2", "--out", room / "Läufe", "--method=kcenter"]
    small = [f"--set={name}={OPTIONS[name]}" for name in ("embed.image_size", "embed.checkpoint_rows")]
    on_ray = ["--set=ray.mode=always", "--set=ray.num_cpus=1"]
    ended = run_python(
        "-m", "elfs_ray.cli", "run", *required, "--until=select", *small, *on_ray,
        cwd=room, user=NAMELESS, HOME="/", TMPDIR=temporary, RAY_TMPDIR="/tmp", **ASCII,
    )  # fmt: skip
    assert (ended.stderr, ended.returncode) == ("", 0)
    lines = ended.stdout.splitlines()
    assert "  Bilder f\\xfcr K\\xe4se/: 240 images read" in lines
    assert lines[-1].startswith("Selected 4 images by kcenter (")
    assert sorted(path.name for path in room.iterdir()) == sorted([images.name, temporary.name, "Läufe"])
    uris = Table(RunFolder(str(room / "Läufe")), "samples").read()["uri"].to_pylist()
    assert sorted(uris) == sorted(map(str, images.iterdir()))
    ours, theirs = (Embeddings(RunFolder(str(run))).matrix("vector") for run in (room / "Läufe", small_run.run_dir))
    # One thread adds in another order than two.
    np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=0.01)


# The second has 3, sends its neighbour, the third, 3 / e, and leaves it 2 - 1.1: less than the 1 of the first.
KERNEL = """
import numpy as np
{first}
from elfs_ray.core import graph, knn, zcore
order = graph.select_by_density(
    np.array([1.0, 3.0, 2.0]), np.ones((3, 1)), np.array([[1], [2], [0]]), 1.0, True, 2, np.zeros(3, bool)
)
print(order.tolist())
"""
PROVIDED = "from elfs_ray.workers.machine import provide_folders; provide_folders()"


def compiled_files(folder):
    return sorted({path.relative_to(folder).parts[0] for path in folder.rglob("*.nbi")})


@pytest.mark.parametrize("home", [None, "/"])
def test_kernels_without_any_folder_for_them(room, home):
    """They compile each time; importing them must not fail."""
    ended = run_python("-c", KERNEL.format(first=""), cwd="/", user=NAMELESS, HOME=home, TMPDIR=room)
    assert (ended.stdout, ended.returncode) == ("[1, 0]\n", 0), ended.stderr
    assert compiled_files(room) == []


@pytest.mark.parametrize("home", [None, "/", "/none/at/all"])
def test_kernels_are_kept_in_the_machines_folder(room, home):
    code = KERNEL.format(first=PROVIDED)
    ended = run_python("-c", code, cwd=room, user=NAMELESS, HOME=home, TMPDIR=room)
    assert (ended.stdout, ended.returncode) == ("[1, 0]\n", 0), ended.stderr
    assert compiled_files(room) == [f"elfs-ray-{NAMELESS}"]
    assert os.listdir(room) == [f"elfs-ray-{NAMELESS}"]


def test_kernels_are_kept_where_the_user_says(room):
    code = KERNEL.format(first=PROVIDED)
    kept = room / "mine"
    run_python("-c", code, cwd=room, user=NAMELESS, HOME="/", TMPDIR=room, NUMBA_CACHE_DIR=kept)
    assert "mine" in compiled_files(room)
    assert f"elfs-ray-{NAMELESS}" not in compiled_files(room)


def test_kernels_are_kept_beside_their_code_where_that_can_be_written_to():
    for kernel in (graph._select_by_density, ranking._similarities, zcore._transpose):
        assert kernel.stats.cache_path == str(ROOT / "elfs_ray" / "core" / "__pycache__")


VARIABLES = ("HOME", "XDG_CACHE_HOME", *machine.CACHES)


@pytest.fixture
def surroundings(monkeypatch, tmp_path):
    """Nothing set but what a test sets; the machine's folder is a new one."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return monkeypatch


def provided():
    machine.provide_folders()
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def test_a_home_in_order_is_left_alone(surroundings, tmp_path):
    surroundings.setenv("HOME", str(tmp_path))
    assert provided() == {"HOME": str(tmp_path)}
    assert os.listdir(tmp_path) == []


def test_a_home_that_is_none(surroundings, tmp_path):
    surroundings.setenv("HOME", "relative")
    assert provided() == {"HOME": str(tmp_path / f"elfs-ray-{os.geteuid()}" / "home")}


def test_weights_in_a_home_that_is_only_to_be_read_are_found(surroundings, room, closed):
    """A cache that is there is read; one that is not is made elsewhere."""
    closed.chmod(0o755)
    (closed / ".cache" / "huggingface").mkdir(parents=True)
    closed.chmod(0o555)
    (closed / ".cache").chmod(0o555)
    code = f"{PROVIDED}; import os; print({{n: os.environ.get(n) for n in {VARIABLES!r}}})"
    ended = run_python("-c", code, cwd="/", user=NAMELESS, HOME=closed, TMPDIR=room)
    own = room / f"elfs-ray-{NAMELESS}" / "cache"
    assert ended.stdout.strip() == str({
        "HOME": str(closed), "XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": str(own / "numba"),
        "HF_HOME": None, "TORCH_HOME": str(own / "torch"),
    })  # fmt: skip


@pytest.mark.parametrize(("home", "made"), [("/", True), ("writable", False), ("with a token", False)])
def test_the_token_of_a_ray_whose_user_has_no_home(room, home, made):
    """It is drawn for this run where none can be kept."""
    if home == "with a token":
        (room / ".ray").mkdir()
        (room / ".ray" / "auth_token").write_text("a" * 64, encoding="utf-8")
    provide = "from elfs_ray.workers.machine import provide_token; provide_token()"
    code = f"{provide}; import os; print(os.environ.get('RAY_AUTH_TOKEN'))"
    here = "/" if home == "/" else room
    tokens = {run_python("-c", code, cwd="/", user=NAMELESS, HOME=here).stdout.strip() for _ in range(2)}
    assert (len(tokens), {len(token) for token in tokens}) == ((2, {64}) if made else (1, {len("None")}))


# Folders for temporary files.

BELOW = f"/ray/session_2026-01-02_03-04-05_123456_{os.getpid()}/sockets/plasma_store"
"""What Ray adds to the folder that it is given."""


def refused(monkeypatch, **environment):
    for name in ("TMPDIR", "RAY_TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError) as caught:
        machine.check_ray_folder()
    return str(caught.value)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_long_for_sockets(monkeypatch, tmp_path, variable):
    room = machine.SOCKET_PATH_BYTES - len(BELOW)
    folder = tmp_path / ("x" * 50)
    folder.mkdir()
    length = len(str(folder))
    assert refused(monkeypatch, **{variable: folder}) == (
        f"{variable}={folder} has {length} bytes, too many for the sockets that Ray makes there; set RAY_TMPDIR to a "
        f"folder of at most {room} bytes, such as /tmp"
    )
    if variable == "TMPDIR":
        monkeypatch.setenv("RAY_TMPDIR", "/tmp")
        assert machine.check_ray_folder() == "/tmp"


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_the_longest_folder_is_counted_in_bytes(monkeypatch, letter):
    """Links give a folder whatever length is wanted."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="l") as short:
        spare = machine.SOCKET_PATH_BYTES - len(BELOW) - len(short) - 1
        name = letter * (spare // len(letter.encode())) + "x" * (spare % len(letter.encode()))
        for extra, fits in (("", True), ("x", False)):
            link = Path(short) / (name + extra)
            link.symlink_to(short)
            if fits:
                monkeypatch.setenv("RAY_TMPDIR", str(link))
                assert machine.check_ray_folder() == str(link)
            else:
                assert "too many for the sockets" in refused(monkeypatch, RAY_TMPDIR=link)


def test_folders_that_cannot_be_used(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    remedy = "set TMPDIR to a folder that you can write to"
    for value, told in (
        (tmp_path / "none", f"is no folder; make it, or {remedy}"),
        (file, f"is no folder; make it, or {remedy}"),
        ("relative", f"is no absolute path; {remedy}"),
        ("/proc", f"cannot be written to (No such file or directory); {remedy}"),
    ):
        assert refused(monkeypatch, TMPDIR=value) == f"TMPDIR={value} {told}"
    assert refused(monkeypatch, TMPDIR=tmp_path / "none", RAY_TMPDIR="/tmp").startswith("TMPDIR=")


def test_a_folder_for_ray_is_made(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as short:
        monkeypatch.setenv("RAY_TMPDIR", f"{short}/a/b")
        assert machine.check_ray_folder() == f"{short}/a/b"
        assert Path(short, "a", "b").is_dir()


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_of_somebody_else(room, closed, variable):
    """The folder itself, or the `ray` in it that Ray made for another user."""
    (room / "ray").mkdir()
    named, refused = (closed, f"TMPDIR={closed}") if variable == "TMPDIR" else (room, f"{room}/ray")
    code = "from elfs_ray.workers.machine import check_ray_folder; check_ray_folder()"
    ended = run_python("-c", code, cwd="/", user=NAMELESS, **{variable: named})
    assert ended.stderr.splitlines()[-1] == (
        f"elfs_ray.errors.UsageError: {refused} cannot be written to (Permission denied); set {variable} to a folder "
        "that you can write to"
    )


def test_no_machine_folder_can_be_made(closed):
    code = (
        "import tempfile; tempfile.tempdir = {!r}\n"
        "from elfs_ray.workers.machine import machine_folder; machine_folder()"
    )
    ended = run_python("-c", code.format(str(closed)), cwd="/", user=NAMELESS)
    assert ended.stderr.splitlines()[-1] == (
        f"elfs_ray.errors.UsageError: no folder can be made for temporary files (Permission denied: "
        f"{closed}/elfs-ray-{NAMELESS}); set TMPDIR to a folder that you can write to"
    )


def test_a_run_is_refused_before_ray_starts(monkeypatch, tmp_path):
    """Ray of the suite may run: this is a process of its own."""
    code = (
        "from elfs_ray.config import RayConfig\nfrom elfs_ray.workers.on_ray.session import ray_session\n"
        "with ray_session(RayConfig()): print('started')"
    )
    ended = run_python("-c", code, cwd=tmp_path, HOME=tmp_path, TMPDIR=tmp_path / "none")
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-1].startswith(f"elfs_ray.errors.UsageError: TMPDIR={tmp_path}/none is no folder;")
    assert not list(tmp_path.glob("ray*"))


# Text.


def test_files_are_read_and_written_in_no_encoding_of_the_terminals():
    """Each call says which; what is ascii in any case need not."""
    ascii_text = ("json.dumps(", "yaml.safe_dump(")
    sources = [*(ROOT / "elfs_ray").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]
    calls = [
        node for path in sources for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    ]
    text = [call for call in calls if ast.unparse(call.func).endswith(("read_text", "write_text"))]
    assert text
    assert [
        ast.unparse(call) for call in text if not says_encoding(call) and ascii_text_of(call) not in ascii_text
    ] == []
    opened = [call for call in calls if ast.unparse(call.func) == "open"]
    assert opened
    assert [
        ast.unparse(call) for call in opened if not says_encoding(call) and "b" not in ast.unparse(call.args[1])
    ] == []


def says_encoding(call):
    return "encoding" in [word.arg for word in call.keywords]


def ascii_text_of(call):
    return ast.unparse(call.args[0]).partition("(")[0] + "(" if call.args else ""


def test_an_argument_that_is_no_text(tmp_path):
    ended = run_python("-m", "elfs_ray.cli", "status", os.fsdecode(b"\xe4"), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "elfs-ray: \\udce4 is no UTF-8 text; give the file or folder another name, or link to it\n"
