"""What each transport brings into the process, and what use leaves of it."""

import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.pb import open_inference_pb2 as pb
from serving.wire import compiler
from tests.support import graphs
from tests.support.conformance import Target, raw_request, typed_request
from tests.support.servers import server_thread

ROOT = Path(__file__).parents[2]
BUILD_A_SERVER = """
import asyncio, sys
from pathlib import Path
from serving.commands import serve
from serving.config import ServerConfig
from serving.server import Server

async def main():
    server = Server(ServerConfig(models=Path(sys.argv[1]), grpc_port=0, http_port=0, transport="grpcio"))
    await server.start()
    await server.stop()

asyncio.run(main())
print(*sorted(name for name in sys.modules if name.split(".")[0] in {"numba", "llvmlite"} or "serving.wire" in name))
"""


def test_grpcio_imports_neither_the_wire_nor_numba(repository):
    graphs.write_model(repository, "affine", graphs.affine())
    program = [sys.executable, "-c", BUILD_A_SERVER, str(repository)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n"


def test_use_on_every_path_compiles_nothing(repository):
    graphs.write_model(repository, "affine", graphs.affine())
    rows = np.ones((2, 4), np.float32)
    with server_thread(repository, transport="native") as server:
        before = list(compiler.KERNELS)
        target = Target(server.address, message_bytes_max=1 << 20)
        compiled = raw_request("affine", x=("FP32", rows))
        assert target.infer(compiled).raw_output_contents
        assert target.infer(typed_request("affine", x=("FP32", rows))).outputs
        assert target.infer(raw_request("affine", x=("FP32", np.ones((256, 4), np.float32)))).outputs
        assert len(target.stream(compiled, compiled)) == 2
        assert target.statistics("affine").inference_count
        with pytest.raises(grpc.RpcError):
            target.infer(raw_request("affine", x=("FP32", np.ones((2, 5), np.float32))))
        with pytest.raises(grpc.RpcError):
            target.stub.ModelInfer(pb.ModelInferRequest(), timeout=1e-3)
        target.channel.close()
    assert before == compiler.KERNELS
    assert [len(kernel.signatures) for kernel in compiler.KERNELS] == [1] * len(before)
