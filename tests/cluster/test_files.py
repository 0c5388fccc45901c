"""The files for clusters: what Ray's own schema says of them, and what they promise."""

import copy
import re
import shlex
import zipfile
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from typer.main import get_command

from elfs_ray import cli

ROOT = Path(__file__).parents[2]
RAY_VERSION = re.search(r"^ray==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
MAX_PACKAGE_BYTES = 6 * 2**18
FOLDER_IN_IMAGE = "/elfs-ray"  # of the image that docs/cluster.md builds
# Fields of KubeRay's v1 API, of which the operator drops unknown ones without a word.
JOB_FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
        *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
        *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
        *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
    },
    "spec.rayClusterSpec": {
        *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions"),
        *("headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs"),
    },
    "spec.rayClusterSpec.authOptions": {"mode"},
    "spec.rayClusterSpec.autoscalerOptions": {
        *("env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "securityContext"),
        *("upscalingMode", "version", "volumeMounts"),
    },
    "spec.rayClusterSpec.headGroupSpec": {
        *("enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template"),
    },
}
WORKER_FIELDS = {
    *("groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams"),
    *("replicas", "resources", "scaleStrategy", "suspend", "template"),
}


def parse_job(command: str) -> tuple[str, dict]:
    """Read the command line of a job with the parser that the job uses; returns the subcommand and its parameters."""
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    text = (ROOT / script.removeprefix(f"{FOLDER_IN_IMAGE}/")).read_text()
    prefix = re.search(r"sys\.argv\[1:1\] = \[(.*)\]", text)[1]
    name, *first = [word.strip('" ') for word in prefix.split(",")]
    group = get_command(cli.app)
    return name, group.commands[name].make_context(name, [*first, *arguments]).params


class TestClusterYaml:
    @pytest.fixture
    def text(self):
        return (ROOT / "cluster.yaml").read_text()

    @pytest.fixture
    def config(self, text, monkeypatch):
        monkeypatch.chdir(ROOT)
        return yaml.safe_load(text)

    def test_ray_accepts_it(self, config):
        validate_config(prepare_config(config))

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("max_worker", 3),
            ("max_workers", "12"),
            ("max_workers", -1),
            ("idle_timeout_minutes", "ten"),
            ("provider.region", 7),
            ("provider.security_group", {"Ingress": []}),
            ("auth.ssh_key", "x"),
            ("docker.images", "x"),
            ("docker.run_options", "--ulimit"),
            ("head_node_type", "header"),
            ("available_node_types.gpu.spot", True),
            ("available_node_types.gpu.min_workers", 99),
            ("available_node_types.head.resources.CPU", 0.5),
            ("available_node_types.head.resources.CPU", "0"),
            ("file_mounts", ["elfs_ray"]),
            ("head_start_ray_commands", "ray start"),
            ("initialization_commands", [1]),
        ],
    )
    def test_ray_refuses_a_wrong_one(self, config, path, value):
        *sections, name = path.split(".")
        target = config = copy.deepcopy(config)
        for section in sections:
            target = target[section]
        target[name] = value
        with pytest.raises((jsonschema.ValidationError, ValueError, AttributeError)):
            validate_config(prepare_config(config))

    def test_the_head_does_no_work(self, config):
        head = config["available_node_types"][config["head_node_type"]]
        assert head["resources"] == {"CPU": 0, "GPU": 0}
        assert head["max_workers"] == 0
        assert "InstanceMarketOptions" not in head["node_config"]

    def test_workers_are_spot_and_none_at_rest(self, config):
        workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
        assert len(workers) == 2
        for worker in workers:
            assert worker["min_workers"] == 0
            assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert sum(worker["max_workers"] for worker in workers) == config["max_workers"]
        assert config["provider"]["cache_stopped_nodes"] is False

    def test_nothing_is_open_to_the_world(self, config, text):
        assert "0.0.0.0" not in text
        assert "::/0" not in text
        assert "security_group" not in config["provider"]
        # Ray makes a group of its own, with SSH for every address, for each kind of node that names none.
        assert all(kind["node_config"]["SecurityGroupIds"] for kind in config["available_node_types"].values())
        assert any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"])
        assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
        assert "~/.ray/auth_token" in config["file_mounts"]

    def test_no_secret_is_in_it(self, config, text):
        assert not re.search(r"(AKIA|ASIA)[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|aws_secret|aws_access", text)
        assert not re.search(r"\b[0-9a-fA-F]{32,}\b", text)
        assert set(config["auth"]) == {"ssh_user"}

    def test_ray_knows_the_options_of_the_start_commands(self, config):
        for command in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
            ray, name, *options = shlex.split(command)
            assert (ray, name) in (("ray", "stop"), ("ray", "start"))
            if name == "start":
                start.make_context("start", options)

    def test_versions_are_those_of_the_constraints(self, config):
        images = re.findall(r"rayproject/ray:([\d.]+)-", yaml.safe_dump(config))
        assert len(images) == 3
        assert set(images) == {RAY_VERSION}
        assert any("--constraint" in command for command in config["setup_commands"])

    def test_everything_mounted_is_there(self, config):
        for local in config["file_mounts"].values():
            assert local.startswith("~") or (ROOT / local).exists()


class TestRayJob:
    @pytest.fixture(scope="class")
    def job(self):
        return yaml.safe_load((ROOT / "docs" / "rayjob.yaml").read_text())

    @pytest.mark.parametrize("path", JOB_FIELDS)
    def test_fields_are_known(self, job, path):
        for name in filter(None, path.split(".")):
            job = job[name]
        assert job.keys() <= JOB_FIELDS[path]

    def test_is_a_ray_job(self, job):
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
        assert job["spec"]["rayClusterSpec"]["rayVersion"] == RAY_VERSION
        assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}

    def test_the_entrypoint_is_a_job_with_its_state_on_object_storage(self, job):
        name, options = parse_job(job["spec"]["entrypoint"])
        assert name == "run"
        assert options["out_dir"].startswith("s3://")
        assert options["input_"].startswith("s3://")
        [workers] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert f"ray.num_gpus={workers['maxReplicas']}" in options["set_"]

    def test_groups(self, job):
        cluster = job["spec"]["rayClusterSpec"]
        assert cluster["enableInTreeAutoscaling"] is True
        # `ray start` parameters are texts in this API.
        assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
        [workers] = cluster["workerGroupSpecs"]
        assert workers.keys() <= WORKER_FIELDS
        assert (workers["replicas"], workers["minReplicas"]) == (0, 0)
        for group, name in ((cluster["headGroupSpec"], "ray-head"), (workers, "ray-worker")):
            [container] = group["template"]["spec"]["containers"]
            assert container["name"] == name
            assert container["resources"]["requests"] == container["resources"]["limits"]
        assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


class TestPackage:
    """What `ray job submit --working-dir .` sends."""

    def test_is_small_and_holds_what_a_job_needs(self, tmp_path):
        create_package(str(ROOT), tmp_path / "package.zip", include_gitignore=True)
        sizes = {file.filename: file.compress_size for file in zipfile.ZipFile(tmp_path / "package.zip").infolist()}
        assert {"elfs_ray/cli/__init__.py", "jobs/select.py"} <= set(sizes)
        assert not {name.split("/")[0] for name in sizes} & {".git", ".venv", "benchmarks", "demo-run", "docs", "tests"}
        assert not [name for name in sizes if "__pycache__" in name]
        # Whatever else somebody keeps in a checkout is theirs.
        ours = [size for name, size in sizes.items() if "/" not in name or name.startswith(("elfs_ray/", "jobs/"))]
        assert sum(ours) < MAX_PACKAGE_BYTES


class TestDocumentation:
    TEXT = (ROOT / "docs" / "cluster.md").read_text()

    def test_every_job_in_it_parses(self):
        jobs = re.findall(r"python jobs/\w+\.py[^\n`]*", self.TEXT.replace("\\\n", " "))
        jobs = [job for job in jobs if "..." not in job]
        assert len(jobs) == 2
        for job in jobs:
            parse_job(job)

    def test_every_script_is_in_it(self):
        assert all(f"`jobs/{path.name}`" in self.TEXT for path in (ROOT / "jobs").glob("*.py"))
        assert f"WORKDIR {FOLDER_IN_IMAGE}\n" in self.TEXT
        assert set(re.findall(r"rayproject/ray:([\d.]+)-", self.TEXT)) == {RAY_VERSION}
