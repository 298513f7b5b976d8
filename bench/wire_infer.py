"""What a request costs between its bytes and the arena, and its answer between the outputs and the frames.

One row of 30 float32 features, in calls of 1, 16 and 64 messages, next to protobuf in the same run: its parser and
serializer alone, and with the Python that reads or fills in the fields, which is the least that a handler does. It
calls the kernels as a transport would; it knows no socket.

    python -m bench.wire_infer
"""

import time
from collections.abc import Callable

import hpack
import numpy as np
from numpy.typing import NDArray

from bench.wire_decode import PREFACE, reads
from serving.batching.arena import Arena
from serving.pb import open_inference_pb2 as pb
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from serving.wire import connection, http2, infer, layout, plan, response, rows
from serving.wire.arrivals import note_requests
from serving.wire.records import ID_BYTES_MAX, R_AT, R_LENGTH, RECORD_COLUMNS, REQUEST_COLUMNS
from serving.wire.settling import AFTER_BYTES, BEFORE_BYTES, settle_answers

FEATURES, CLASSES = 30, 2
MESSAGES_PER_CALL = (1, 16, 64)
REPEATS, CALLS = 40, 500

SIGNATURE = Signature(
    (TensorSpec("x", Datatype.FP32, (DYNAMIC, FEATURES)),),
    (TensorSpec("probabilities", Datatype.FP32, (DYNAMIC, CLASSES)),),
    batchable=True,
)


def request() -> bytes:
    """Write the request as a generated client does."""
    message = pb.ModelInferRequest(model_name="forest", id="42")
    message.inputs.add(name="x", datatype="FP32", shape=[1, FEATURES])
    message.raw_input_contents.append(np.linspace(0, 1, FEATURES, dtype=np.float32).tobytes())
    return message.SerializeToString()


def answer() -> pb.ModelInferResponse:
    """Make the answer as the ordinary path does."""
    message = pb.ModelInferResponse(model_name="forest", model_version="1", id="42")
    message.outputs.add(name="probabilities", datatype="FP32", shape=[1, CLASSES])
    message.raw_output_contents.append(bytes(CLASSES * 4))
    return message


def parse_into(message: bytes, row: NDArray[np.float32]) -> str:
    """Read a request with protobuf, look at its fields, and copy its tensor; nothing is checked."""
    asked = pb.ModelInferRequest.FromString(message)
    (tensor,) = asked.inputs
    if (asked.model_name, asked.model_version, tensor.name, tensor.datatype) == ("forest", "", "x", "FP32"):
        row[: tensor.shape[0]] = np.frombuffer(asked.raw_input_contents[0], np.float32).reshape(tuple(tensor.shape))
    return asked.id


def ns_per_message(call: Callable[[], object], messages: int) -> float:
    """Return the best of many repeats: the machine has other users."""
    calls = max(1, CALLS // messages)
    best = float("inf")
    for _ in range(REPEATS):
        began_ns = time.perf_counter_ns()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter_ns() - began_ns) / (calls * messages))
    return best


class Batch:
    """As many messages as one call takes, and all arrays that it needs."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.plan = plan.build([plan.Model(name="forest", version=1, signature=SIGNATURE, rows_max=64)])
        message = request()
        self.buffer = np.frombuffer(message * messages, np.uint8).copy()
        self.records = np.zeros((messages, RECORD_COLUMNS), np.int64)
        self.records[:, R_AT] = np.arange(messages) * len(message)
        self.records[:, R_LENGTH] = len(message)
        self.requests = np.zeros((messages, REQUEST_COLUMNS), np.int64)
        self.ids = np.zeros(messages * ID_BYTES_MAX, np.uint8)
        self.groups = np.zeros(1, np.int64)
        self.arena = Arena(self.plan.models[0].signature, messages).octets
        self.chosen = np.arange(messages)
        outputs = np.zeros((messages, CLASSES), np.float32)
        self.contents = outputs.reshape(-1).view(np.uint8)
        self.shapes = response.output_shapes([outputs], messages)
        self.answers = np.zeros((messages, response.ANSWER_COLUMNS), np.int64)
        self.out = np.zeros(messages * 256, np.uint8)

    def decode(self) -> None:
        """Scan the messages and take them into the arena."""
        numbers, text = self.plan.numbers, self.plan.text
        accepted, _ = infer.scan_requests(self.buffer, 0, self.records, 0, self.messages, numbers, text)
        assert accepted == self.messages
        rows.take_rows(
            self.buffer, 0, self.records, 0, self.messages, numbers, 0,
            self.arena, 0, self.messages, self.requests, 0, self.ids, self.groups, 1,
        )  # fmt: skip

    def encode(self) -> None:
        """Write the answers, with room for frames of HTTP/2 around them."""
        needed = response.encode(
            *(self.requests, self.chosen, self.ids, self.plan.numbers, self.plan.text, self.shapes, 0),
            *(self.out, 0, BEFORE_BYTES, AFTER_BYTES, self.answers),
        )
        assert 0 < needed <= self.out.size
        response.fill(self.answers, self.messages, 0, CLASSES * 4, self.contents, self.out)


class Calls:
    """A connection with as many calls that wait for their answers."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.state = state = layout.State(layout.Limits(connections=1, streams=256, blocks=0))
        connection.open_connection(state.connections, state.shared, state.control, 0, 0)
        source = np.frombuffer(b"".join([PREFACE, *reads(hpack.Encoder(), batch.messages, 1, 8)]), np.uint8).copy()
        _, _, events, _, _ = http2.decode(
            *(source, state.connections, state.streams, state.pool, state.events, state.control, state.headers),
            *(state.shared, 0, 0, source.size, 0),
        )
        records = np.zeros((state.events.shape[0], RECORD_COLUMNS), np.int64)
        assert note_requests(state.events, events, 0, records, 0) == batch.messages
        self.requests = records[: batch.messages, :REQUEST_COLUMNS].copy()
        self.waiting = state.connections.copy(), state.streams.copy(), state.shared.copy()

    def restore(self) -> None:
        """Make all calls wait again."""
        self.state.connections[:], self.state.streams[:], self.state.shared[:] = self.waiting

    def settle(self) -> None:
        """Write the frames around the answers and release the streams."""
        self.restore()
        batch, state = self.batch, self.state
        stopped, _, _ = settle_answers(
            *(self.requests, batch.chosen, batch.answers, state.connections, state.streams, state.shared, batch.out),
            *(0, 0, batch.messages),
        )
        assert stopped == batch.messages


def main() -> None:
    """Print one line per call length."""
    message, plain, row = request(), answer(), np.zeros((1, FEATURES), np.float32)
    parse_ns = ns_per_message(lambda: pb.ModelInferRequest.FromString(message), 1)
    serialize_ns = ns_per_message(plain.SerializeToString, 1)
    read_ns = ns_per_message(lambda: parse_into(message, row), 1)
    write_ns = ns_per_message(lambda: answer().SerializeToString(), 1)
    print(f"protobuf alone: FromString {parse_ns:.0f} ns, SerializeToString {serialize_ns:.0f} ns")
    print(f"protobuf and Python: request to row {read_ns:.0f} ns, row to answer {write_ns:.0f} ns")
    for messages in MESSAGES_PER_CALL:
        batch = Batch(messages)
        decode_ns, encode_ns = ns_per_message(batch.decode, messages), ns_per_message(batch.encode, messages)
        calls = Calls(batch)
        settle_ns = ns_per_message(calls.settle, messages) - ns_per_message(calls.restore, messages)
        print(
            f"{messages:3} per call: scan and copy {decode_ns:.0f} ns "
            f"({parse_ns / decode_ns:.1f} x alone, {read_ns / decode_ns:.1f} x with Python), answer {encode_ns:.0f} ns "
            f"({serialize_ns / encode_ns:.1f} x alone, {write_ns / encode_ns:.1f} x with Python), "
            f"frames around it {settle_ns:.0f} ns"
        )


if __name__ == "__main__":
    main()
