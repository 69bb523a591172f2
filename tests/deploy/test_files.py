"""The files that people start a cluster's run from, as far as they can be checked without that cluster."""

import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.loading import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Programs of a cluster, that note how they were called in `calls` beside them; the run ends with status $ENDS,
    and waits for a signal first if that is 5."""
    folder = tmp_path / ".venv" / "bin"  # where the script looks for its programs first
    folder.mkdir(parents=True)
    python = 'case "$2" in *token*) echo secret;; *) [ -e "$JOINED" ];; esac'
    run = 'trap "exit 5" USR1; [ "$ENDS" = 5 ] || exit "$ENDS"; while :; do /bin/sleep 0.1; done'
    programs = {
        "python": python,
        "srun": "exec /bin/sleep 30",
        "scontrol": ":",
        "hostname": "echo 10.0.0.1 192.168.0.1",
        "cohort": run,
        "sleep": '/bin/sleep 0.1; : > "$JOINED"',
    }
    for name, does in programs.items():
        text = f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/calls\n{does}\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return tmp_path


def submitted(stubs: Path, ends: int, nodes: int = 2) -> "subprocess.Popen[bytes]":
    allocated = {"SLURM_NNODES": str(nodes), "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7"}
    return subprocess.Popen(
        ["bash", str(DEPLOY / "slurm.sbatch"), "recipe.yaml", "--run.directory", "/shared"],
        cwd=stubs,
        env=os.environ | allocated | {"ENDS": str(ends), "JOINED": str(stubs / "joined")},
        start_new_session=True,
    )


def finished(process: "subprocess.Popen[bytes]", stubs: Path) -> tuple[int, list[str]]:
    """The job's status, and the calls that its script made."""
    try:
        status = process.wait(30)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # as Slurm ends a job's steps with its script
    return status, (stubs / "calls").read_text().splitlines()


def test_a_slurm_job_starts_ray_on_all_machines_and_has_the_run_s_status(stubs: Path) -> None:
    status, calls = finished(submitted(stubs, ends=3), stubs)
    assert status == 3
    assert (
        "cohort train recipe.yaml --run.directory /shared --run.resume auto --cluster.address 10.0.0.1:6379" in calls
    )
    starts = [call for call in calls if call.startswith("srun")]
    assert any(
        "--nodes=1 " in call and "ray start --head --block --node-ip-address=10.0.0.1" in call for call in starts
    )
    assert any("--nodes=1 --ntasks=1 --exclude=" in call and "--address=10.0.0.1:6379" in call for call in starts)
    counted = [call for call in calls if "cluster import gpus" in call]
    assert len(counted) > 1 and "gpus('10.0.0.1:6379') < 16" in counted[0]  # it waited for them
    assert not any(call.startswith("scontrol") for call in calls)


def test_a_slurm_job_that_is_warned_is_put_back(stubs: Path) -> None:
    process = submitted(stubs, ends=5, nodes=1)
    deadline = time.monotonic() + 20
    while not (stubs / "calls").exists() or "cohort train" not in (stubs / "calls").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # until the script waits
    process.send_signal(signal.SIGUSR1)
    status, calls = finished(process, stubs)
    assert (status, calls[-1]) == (5, "scontrol requeue 7")
    assert sum(call.startswith("srun") for call in calls) == 1


def test_the_slurm_script_is_good_bash() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sbatch")], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, str(DEPLOY / "slurm.sbatch")], check=True)


def manifest() -> Any:
    return yaml.safe_load((DEPLOY / "rayjob.yaml").read_text(encoding="utf-8"))


def test_the_manifest_is_a_rayjob() -> None:
    """By the fields that KubeRay's definition of `ray.io/v1` has, and those that it wants."""
    job = manifest()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec.keys() == {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "rayClusterSpec"}
    assert cluster.keys() == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = pod["containers"]
        assert container.keys() == {"name", "image", "env", "resources", "volumeMounts"}
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_manifest_has_what_its_recipe_needs() -> None:
    spec = manifest()["spec"]
    (recipe,) = re.findall(r"configs/\S+", spec["entrypoint"])
    config = load(ROOT / recipe)
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    gpus = workers["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert gpus == config.engine.engines * config.engine.tensor_parallel_size + config.training.ranks
    assert "--run.resume auto" in spec["entrypoint"] and "--run.directory /shared/" in spec["entrypoint"]
    (ray,) = (one for one in PROJECT["project"]["dependencies"] if one.startswith("ray"))
    assert ray == f"ray[default]=={spec['rayClusterSpec']['rayVersion']}"


def instructions() -> Iterator[tuple[str, str]]:
    """The Containerfile's, one by one, with their arguments."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", "")
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, arguments = line.partition(" ")
            yield name, arguments


def test_the_image_is_set_up_as_a_clone_is() -> None:
    """With the Makefile's own command, all packages, and a Python that the project allows."""
    found = list(instructions())
    (image,) = (arguments for name, arguments in found if name == "FROM")
    (version,) = re.findall(r"python:(3\.\d+)", image)
    low, high = (int(number) for number in re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"]))
    assert low <= int(version.partition(".")[2]) < high
    copied = {source for name, arguments in found if name == "COPY" for source in arguments.split()[:-1]}
    assert {*PROJECT["tool"]["importlinter"]["root_packages"], "Makefile", "pyproject.toml"} <= copied
    assert all((ROOT / source).exists() for source in copied)
    (setup,) = (arguments for name, arguments in found if name == "RUN" and arguments.startswith("make"))
    plan = subprocess.run([*setup.split(), "--dry-run", "--always-make"], cwd=ROOT, capture_output=True, text=True)
    assert plan.returncode == 0 and "--editable '.[gpu,dev,wandb]'" in plan.stdout, plan.stderr
    last_copy = max(index for index, (name, _) in enumerate(found) if name == "COPY")
    assert found.index(("RUN", setup)) > last_copy
    assert ("ENV", "PATH=/cohort/.venv/bin:$PATH") in found and ("WORKDIR", "/cohort") in found
