"""What docs/pods.md shows is complete: manifests by the fields of their API, commands by ours."""

import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from ddad_jax.experiment.config import load_config, override, read_config

DOCS = Path(__file__).parents[1] / "docs"
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}


def fields(required, **more):
    """The schema of an object of these fields and no others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **more},
        "additionalProperties": False,
    }


COUNT = {"type": "integer", "minimum": 1}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
CONTAINER = fields(
    {"name": NAME, "image": {"type": "string"}, "resources": {"type": "object"}},
    command={"type": "array", "items": {"type": "string"}},
    ports={"type": "array", "items": fields({"containerPort": COUNT})},
    volumeMounts={
        "type": "array",
        "items": fields({"name": NAME, "mountPath": {"type": "string"}}),
    },
)
VOLUME = fields({"name": NAME}, emptyDir=fields({}, sizeLimit={"type": "string"}))
POD = fields(
    {"containers": {"type": "array", "minItems": 1, "items": CONTAINER}},
    restartPolicy={"enum": ["Never", "OnFailure"]},
    terminationGracePeriodSeconds=COUNT,
    nodeSelector=STRINGS,
    serviceAccountName=NAME,
    volumes={"type": "array", "items": VOLUME},
)
JOB = fields(
    {"template": fields({"spec": POD})},
    parallelism=COUNT,
    completions=COUNT,
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    backoffLimit={"type": "integer", "minimum": 0},
)
REPLICATED = fields({"name": NAME, "template": fields({"spec": JOB})}, replicas=COUNT)
# The part of JobSet's v1alpha2, batch/v1's Job and core/v1's PodSpec that is used here.
JOBSET = fields(
    {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": fields({"name": NAME}, annotations=STRINGS),
        "spec": fields(
            {"replicatedJobs": {"type": "array", "minItems": 1, "items": REPLICATED}},
            failurePolicy=fields({}, maxRestarts=COUNT),
        ),
    }
)


@pytest.fixture
def jobset():
    return yaml.safe_load((DOCS / "pods/jobset.yaml").read_text())


def config_of(command):
    """The config that a command of this package is read as."""
    flags = [flag for flag in command if flag.startswith("--config")]
    name = next(flag.partition("=")[2] for flag in flags if flag.startswith("--config="))
    given = [flag.removeprefix("--config.").partition("=") for flag in flags if "--config." in flag]
    config = load_config(name)
    override(config, [(setting, value) for setting, _, value in given])
    return read_config(config)


def test_the_jobset_has_the_fields_of_its_api(jobset):
    jsonschema.validate(jobset, JOBSET)


def test_a_field_that_the_api_lacks_is_found(jobset):
    jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["replicas"] = 4
    with pytest.raises(jsonschema.ValidationError, match="replicas"):
        jsonschema.validate(jobset, JOBSET)


def test_the_jobset_asks_for_the_chips_that_its_command_takes(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    of_each = int(container["resources"]["limits"]["google.com/tpu"])
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert job["parallelism"] == job["completions"] == rows * columns // of_each
    mesh = config_of(container["command"]).mesh
    assert mesh.category * mesh.data * mesh.model == rows * columns
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_job_of_slurm_takes_all_gpus_that_it_asks_for():
    script = DOCS / "pods/slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script.read_text(), re.MULTILINE))
    command = re.search(r"^srun .*?\|\|", script.read_text(), re.DOTALL | re.MULTILINE)[0]
    mesh = config_of(shlex.split(command.replace("\\\n", " "))).mesh
    assert mesh.data * mesh.model == int(asked["nodes"]) * int(asked["gpus-per-node"])
    assert asked["ntasks-per-node"] == "1"


def test_every_command_of_the_page_is_one_of_this_package():
    page = (DOCS / "pods.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^ {4}.*\bddad_jax (--\S.*)$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        config_of(shlex.split(command.rstrip('"') if command.count('"') % 2 else command))
