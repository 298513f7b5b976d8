"""The README's Python calls, run as they are written but for the port, against quickstart's model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from converters.conversion import convert
from tests.support import graphs
from tests.support.environments import environment
from tests.support.servers import server_thread

ROOT = Path(__file__).parents[2]


def example(name: str, address: str) -> str:
    text = (ROOT / "README.md").read_text()
    code = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert code, f"the README has no example {name}"
    assert "127.0.0.1:8001" in code[1]
    return code[1].replace("127.0.0.1:8001", address)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    rows, labels = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(10, random_state=0).fit(rows, labels)
    graphs.write_model(models, "breast_cancer", convert(forest, rows).graph)
    with server_thread(models) as running:
        yield running


def run(python, code: str) -> str:
    return subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_call_with_plain_stubs_works_as_written(server):
    assert re.fullmatch(r"1 \[[01] [01]\]\n", run(sys.executable, example("stubs", server.address)))


def test_the_call_with_tritonclient_works_as_written(server):
    python = environment("tritonclient[grpc]>=2.60,<3")
    assert re.match(r"\[[01] [01]\] \[\[", run(python, example("tritonclient", server.address)))
