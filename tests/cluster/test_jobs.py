"""Jobs sent to a real Ray cluster on this machine, beside the suite's own Ray: results, exit statuses, stopping."""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from ray.job_submission import JobStatus, JobSubmissionClient

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.artifacts.table import Table
from nodes import end_with_descendants
from small import BUDGET, OPTIONS, TIMEOUT_SECONDS

ROOT = Path(__file__).parents[2]
START_SECONDS = 300


@dataclass(frozen=True)
class Cluster:
    """A head node and how to reach it."""

    address: str
    token: str
    environment: dict[str, str]

    def client(self) -> JobSubmissionClient:
        # The token of this cluster, not the one that the suite's own Ray has put into this process.
        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self.token}"})

    def submit_and_wait(self, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` as a user types it."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", ".", "--"]
        return subprocess.run(
            [*command, *entrypoint],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """`ray start --head` with authentication, in a folder and on ports of its own."""
    # Unix sockets lie in the folder, and their paths may have 107 characters; tmp_path is longer.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    token = uuid.uuid4().hex
    (folder / "token").write_text(token)
    gcs, dashboard, client = free_ports(3)
    address = f"http://127.0.0.1:{dashboard}"
    environment = {
        # Nothing of the suite's own Ray; and a job has to find the package in what was sent.
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_API_SERVER_ADDRESS": address,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_idle_worker_killing_time_threshold_ms": "30000",
    }
    options = ["--head", "--block", "--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000"]
    options += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"]
    options += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    options += ["--dashboard-agent-listen-port=0", f"--temp-dir={folder}"]
    with open(folder / "start.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: answers(address), process, START_SECONDS, (folder / "start.log").read_text)
        yield Cluster(address, token, environment)
    finally:
        end_with_descendants(process)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/api/version", timeout=5).status_code in (200, 401, 403)
    except requests.RequestException:
        return False


def wait_for(reached, process, seconds, what_happened) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert process is None or process.poll() is None, what_happened()
        assert time.monotonic() < deadline, what_happened()
        time.sleep(0.1)


def job(name: str, images: Path, run_dir: Path, *more: str) -> list[str]:
    sets = [f"--set={option}={value}".replace(" ", "") for option, value in OPTIONS.items()]
    required = ["--input", str(images), "--budget", str(BUDGET), "--num-classes", "10", "--out", str(run_dir)]
    return ["python", f"jobs/{name}.py", *required, *sets, *more]


def submit(client: JobSubmissionClient, arguments: list[str]) -> str:
    return client.submit_job(entrypoint=shlex.join(arguments), runtime_env={"working_dir": str(ROOT)})


def finish(client: JobSubmissionClient, submission: str):
    """Wait for the end of a job; returns what Ray says of it, and its log."""
    wait_for(
        lambda: client.get_job_status(submission).is_terminal(),
        None,
        TIMEOUT_SECONDS,
        lambda: client.get_job_logs(submission),
    )
    return client.get_job_info(submission), client.get_job_logs(submission)


def coreset(run_dir: Path, method: str = "elfs"):
    return Table(RunFolder(str(run_dir)), f"coresets/{method}/{BUDGET}").read()


def test_the_cluster_wants_the_token(cluster):
    assert requests.get(f"{cluster.address}/api/jobs/", timeout=10).status_code == 401
    with_token = {"Authorization": f"Bearer {cluster.token}"}
    assert requests.get(f"{cluster.address}/api/jobs/", headers=with_token, timeout=10).status_code == 200


def test_wrong_use_fails_with_status_2_and_one_line(cluster, small_input, tmp_path):
    sent = cluster.submit_and_wait(*job("select", small_input[0], tmp_path / "run", "--method=efls"))
    assert sent.returncode == 1, sent.stdout
    assert "elfs-ray: unknown method 'efls'; did you mean 'elfs'?" in sent.stdout
    [failed] = [one for one in cluster.client().list_jobs() if "--method=efls" in one.entrypoint]
    assert (failed.status, failed.driver_exit_code) == (JobStatus.FAILED, 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stopped_and_submitted_again(cluster, undisturbed, small_input, tmp_path):
    """The same coreset as that of a run in one go, in another Ray; then the other jobs in the same run folder."""
    client, run_dir, (images, labels) = cluster.client(), tmp_path / "run", small_input
    embed = job("embed", images, run_dir)
    first = submit(client, embed)
    ingested = lambda: "ingest" in RunFolder(str(run_dir)).manifest().get("records", {})  # noqa: E731
    wait_for(ingested, None, TIMEOUT_SECONDS, lambda: client.get_job_logs(first))
    client.stop_job(first)
    info, _ = finish(client, first)
    assert info.status == JobStatus.STOPPED
    assert "embed" not in RunFolder(str(run_dir)).manifest()["records"]

    for arguments, found in ((embed, "Checked 240 images"), (job("select", images, run_dir), "Embedded 240 images")):
        info, log = finish(client, submit(client, arguments))
        assert (info.status, info.driver_exit_code) == (JobStatus.SUCCEEDED, 0), log
        assert [line for line in log.splitlines() if line.startswith(found) and line.endswith("(there already)")]
    # That run had labels, for its evaluation; this one has none.
    for artifact in ("samples", "embeddings", "neighbors", "pseudo_labels", "dynamics", f"coresets/elfs/{BUDGET}"):
        ours, theirs = (Table(RunFolder(str(run)), artifact).read() for run in (run_dir, undisturbed))
        assert ours.equals(theirs), artifact
    assert (run_dir / "report.html").exists()

    info, log = finish(client, submit(client, job("evaluate", images, run_dir, "--labels", str(labels))))
    assert (info.status, info.driver_exit_code) == (JobStatus.SUCCEEDED, 0), log
    ours, theirs = (Table(RunFolder(str(run)), f"evaluation/elfs/{BUDGET}").read() for run in (run_dir, undisturbed))
    assert ours.drop(["seconds"]).equals(theirs.drop(["seconds"]))

    swept = cluster.submit_and_wait(*job("sweep", images, run_dir, "--method=random,kcenter"))
    assert swept.returncode == 0, swept.stdout
    assert "Embedded 240 images with efficientnet-lite0 (there already)" in swept.stdout
    assert [len(coreset(run_dir, method)) for method in ("random", "kcenter")] == [BUDGET, BUDGET]
