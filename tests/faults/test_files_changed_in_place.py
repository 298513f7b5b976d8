"""Writing over the files of a version that serves, as `cp` does, must not touch what serves."""

import numpy as np
import onnx

from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import server_process


def test_weights_beside_the_graph_can_be_emptied_in_place(repository):
    folder = graphs.write_model(repository, "lookup", graphs.lookup(width=1000, table_rows=1000))
    model = onnx.load(folder / "model.onnx")
    onnx.save_model(model, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin")
    assert (folder / "weights.bin").stat().st_size == 4_000_000
    with server_process(repository) as server, Client(server.address) as client:
        (folder / "weights.bin").write_bytes(b"")
        _, outputs = client.infer("lookup", {"index": (Datatype.INT64, np.array([999]))})
        assert outputs["y"][0, :2].tolist() == [999_000.0, 999_001.0]
        assert server.process.poll() is None
