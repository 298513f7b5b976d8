"""A message that takes long to read keeps nobody else waiting, and one of a million empty entries is refused."""

import threading

import numpy as np
import pytest

from serving.errors import InvalidRequest
from serving.pb import open_inference_pb2 as pb
from serving.transport import large
from serving.transport.client import Client
from serving.transport.codec import ENTRIES_MAX, decode_request
from serving.types import Datatype
from tests.faults.conftest import DEADLINE_S
from tests.support import graphs
from tests.support.servers import server_thread


def test_others_are_answered_while_a_large_message_is_read(repository, calls, monkeypatch):
    graphs.write_model(repository, "words", graphs.identity("BYTES", ("rows", "width")))
    graphs.write_model(repository, "affine", graphs.affine())
    reading, go_on = threading.Event(), threading.Event()

    def read_slowly(request):
        reading.set()
        assert go_on.wait(DEADLINE_S)
        return read(request)

    read = large.with_arrays
    monkeypatch.setattr(large, "with_arrays", read_slowly)
    words = np.full((2, 20_000), "word", np.object_)
    with server_thread(repository) as server, Client(server.address) as other:
        future = calls(server.address).send(words, datatype="BYTES", model="words")
        assert reading.wait(DEADLINE_S)
        _, outputs = other.infer("affine", {"x": (Datatype.FP32, np.ones((1, 4), np.float32))})
        assert outputs["y"].tolist() == [[3.0] * 4]
        go_on.set()
        answer = pb.ModelInferResponse.FromString(future.result(DEADLINE_S))
        assert len(answer.raw_output_contents[0]) == words.size * 8


@pytest.mark.parametrize("field", ["inputs", "outputs", "raw_input_contents"])
def test_more_entries_than_any_model_has_are_refused(field):
    message = pb.ModelInferRequest(model_name="m")
    entry = b"" if field == "raw_input_contents" else getattr(message, field).add()
    getattr(message, field).extend([entry] * ENTRIES_MAX)
    if field == "raw_input_contents":
        message.raw_input_contents.append(b"")
    with pytest.raises(InvalidRequest, match=f"{ENTRIES_MAX + 1} {field}, expected at most {ENTRIES_MAX}"):
        decode_request(message.SerializeToString())
