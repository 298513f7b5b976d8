"""The committed stubs are what the pinned generator makes of protos/, byte for byte.

To make them anew, in an environment with the requirements of `GENERATOR`, from the root of the checkout:

    python -m grpc_tools.protoc -Iserving/pb=protos --python_out=. --pyi_out=. --grpc_python_out=. \\
        protos/model_config.proto protos/open_inference.proto protos/penstock.proto

The pin is a generator whose code runs on protobuf 6 and 7 alike.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support.environments import environment

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "serving" / "pb"
GENERATOR = ("grpcio-tools==1.76.0", "setuptools<81")
PROTOS = ("protos/model_config.proto", "protos/open_inference.proto", "protos/penstock.proto")
NAMES = sorted(f"{Path(proto).stem}{suffix}" for proto in PROTOS for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stubs")
    out = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    command = [str(environment(*GENERATOR)), "-m", "grpc_tools.protoc", "-Iserving/pb=protos", *out, *PROTOS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "serving" / "pb"


def test_the_generator_makes_the_committed_files_and_no_others(generated):
    assert sorted(path.name for path in generated.iterdir()) == NAMES
    assert sorted(path.name for path in STUBS.glob("*_pb2*")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_stubs_are_what_the_generator_makes(generated, name):
    assert (STUBS / name).read_bytes() == (generated / name).read_bytes()
