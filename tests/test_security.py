"""What docs/security.md promises, where no other test already checks it."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from elfs_ray.artifacts import filesystems
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.config_loading import load_config
from elfs_ray.data.images import ImageError, decode, inspect
from elfs_ray.errors import UsageError
from elfs_ray.exports import FORMATS, export_coreset
from elfs_ray.report.render import write_report
from elfs_ray.workers.machine import is_private, machine_folder
from made_records import add_records, record
from test_exports import NAME, make_run

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("elfs_ray", "jobs") for path in sorted((ROOT / folder).rglob("*.py"))]
# Calls that run, or can be made to run, what a file says; `pickle.Unpickler` is subclassed in datasets.py, and checked.
NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "dill.load", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "pd.read_pickle", "ET.parse", "ET.fromstring", "tempfile.mktemp",
}  # fmt: skip


def calls(path):
    """Every call of a module: its dotted name as written, and its keyword arguments as source text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_a_file_says(path):
    for name, options in calls(path):
        assert name not in NEVER
        assert not name.endswith((".extractall", ".extract"))
        assert options.get("shell") != "True"
        assert options.get("allow_pickle") != "True"
        if name == "torch.load":
            assert options["weights_only"] == "True"


def test_the_scan_sees_calls():
    found = [(name, options) for path in SOURCES for name, options in calls(path)]
    assert {"torch.load", "yaml.safe_load"} <= {name for name, _ in found}


def test_code_is_fetched_in_one_place_alone():
    places = [path.name for path in SOURCES for name, _ in calls(path) if name == "torch.hub.load"]
    assert places == ["torchvision_models.py"]


@pytest.mark.parametrize("reader", [decode, inspect])
def test_postscript_is_no_image(reader):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "EPS")
    with pytest.raises(ImageError, match="not an image, or of a kind"):
        reader(file.getvalue(), max_pixels=1000)


HOSTILE = ["<img src=x onerror=alert(1)>.png", "\"><script>alert(2)<'script>.png", "{{7*7}}.png"]


def test_names_of_images_are_escaped_in_the_report(tmp_path):
    store = make_run(tmp_path, in_table=True, ids=HOSTILE)
    metrics = {"budget": 3, "beta": None, "choice": None, "cluster_sizes": [1, 1, 1]}
    add_records(store, record(f"select/{NAME}", metrics=metrics, rows={NAME: 3}, seconds=1.0))
    config = load_config({"input": "x", "num_classes": 3, "budgets": [3]}).model_dump(mode="json")
    store.update_manifest(name="run", config=config, versions={}, hardware={})
    write_report(store)
    page = store.read_bytes("report.html").decode()
    body = page[page.rindex("</script>", 0, page.index("<h1>")) :]
    assert body.count("data:image/jpeg;base64,") == 3
    assert "<img src=x" not in body
    assert "<script>alert" not in body
    assert "49.png" not in body
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in body


SECRET = "a-secret-that-stands-nowhere"
WITH_SECRETS = [
    f"s3://key:{SECRET}@photos/x",
    f"s3://photos/x?secret_key={SECRET}",
    f"s3://photos/x?region=eu&Session_Token={SECRET}",
    f"gs://user:{SECRET}@photos/x",
    f"abfs://photos@account/x?client_secret={SECRET}",
    f"abfs://photos@account/x?sas_token={SECRET}",
]


@pytest.mark.parametrize("location", WITH_SECRETS)
def test_a_secret_in_a_location_is_refused_and_not_repeated(location):
    for use in (filesystems.resolve, RunFolder):
        with pytest.raises(UsageError, match="must not hold credentials") as caught:
            use(location)
        assert SECRET not in str(caught.value)


def test_a_location_without_a_secret_is_taken():
    for location in ("/photos/key=1?token=2", "s3://photos/monkey=1/x?region=eu", "gs://photos/tokens/x"):
        filesystems.refuse_credentials(location)


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_says_nothing_of_how_a_store_is_reached(tmp_path, form):
    store = make_run(tmp_path, in_table=True)
    store.update_manifest(input="s3://photos/x?endpoint_override=inner.example:9000")
    folder = export_coreset(store, NAME, form, tmp_path / "out")
    assert not [path for path in folder.rglob("*") if path.is_file() and b"inner.example" in path.read_bytes()]


def test_a_local_ray_asks_for_a_token_and_reports_to_nobody(ray_session):
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files of all users, and the name in it that the machine's folder has at first."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder, folder / f"elfs-ray-{os.geteuid()}"


def mode_of(path):
    return path.stat().st_mode & 0o7777


def test_the_machines_folder_is_closed_to_others(temporary):
    folder, first = temporary
    old = os.umask(0)
    try:
        assert machine_folder("arrays", "x") == first / "arrays" / "x"
    finally:
        os.umask(old)
    assert (first / "arrays" / "x").is_dir()
    assert mode_of(first) == 0o700
    assert os.listdir(folder) == [first.name]


def link_elsewhere(first):
    (first.parent / "elsewhere").mkdir(mode=0o700)
    first.symlink_to("elsewhere")


def link_to_nothing(first):
    first.symlink_to("nothing")


def open_to_all(first):
    first.mkdir()
    first.chmod(0o777)


def open_to_the_group(first):
    first.mkdir()
    first.chmod(0o750)


def of_somebody_else(first):
    if os.geteuid() != 0:
        pytest.skip("only root gives folders away")
    first.mkdir(mode=0o700)
    os.chown(first, 12345, 12345)


@pytest.mark.parametrize(
    "take", [link_elsewhere, link_to_nothing, open_to_all, open_to_the_group, of_somebody_else, Path.touch]
)
def test_a_folder_that_others_took_is_not_used(temporary, take):
    """Another one is, under a name that nobody knows beforehand, by all processes, and checked each time."""
    folder, first = temporary
    take(first)
    before = sorted(os.listdir(folder))
    found = machine_folder()
    assert found.parent == folder
    assert found.name.startswith(f"{first.name}-")
    assert len(found.name) >= len(first.name) + 8
    assert is_private(found)
    assert machine_folder() == found
    assert sorted(os.listdir(folder)) == sorted([*before, found.name])
    assert not first.is_dir() or os.listdir(first) == []
    found.chmod(0o755)
    assert machine_folder() not in (first, found)


def test_a_second_name_that_others_took_is_not_used(temporary):
    _, first = temporary
    open_to_all(first)
    open_to_all(first.with_name(f"{first.name}-aaaaaaaa"))
    found = machine_folder()
    assert found.name != f"{first.name}-aaaaaaaa"
    assert mode_of(found) == 0o700


def test_processes_that_start_together_share_one_folder(temporary):
    folder, first = temporary
    command = [sys.executable, "-c", "from elfs_ray.workers.machine import machine_folder; print(machine_folder('a'))"]
    started = [
        subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert {process.communicate()[0].strip() for process in started} == {str(first / "a")}
