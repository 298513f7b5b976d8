"""Stock grpcio with asyncio: `grpcio_aio_session.py ADDRESS`, with the checkout on PYTHONPATH.

Imports nothing of the server but `serving.pb`. Prints what it found as JSON; the test that started it judges. It has a
process of its own, since grpcio's asyncio client wants to be the only one in its process.
"""

import asyncio
import json
import sys
from array import array

import grpc
import grpc.aio

from serving.pb import open_inference_pb2 as pb
from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub

TIMEOUT_S = 60
CONNECTIONS, REQUESTS = 4, 1000
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


def request(model: str, values: list[float], width: int) -> pb.ModelInferRequest:
    """Build a request of rows of `width` values."""
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=[len(values) // width, width])
    message.raw_input_contents.append(array("f", values).tobytes())
    return message


def values_of(response: pb.ModelInferResponse) -> list[float]:
    """Return the first output of an answer."""
    return array("f", response.raw_output_contents[0]).tolist()


async def main() -> None:
    """Run the session."""
    channels = [grpc.aio.insecure_channel(sys.argv[1], OPTIONS) for _ in range(CONNECTIONS)]
    stubs = [GRPCInferenceServiceStub(channel) for channel in channels]
    facts = {
        "many": await many(stubs),
        "stream": await stream(stubs[0]),
        "interleaved stream": await interleaved(stubs[0]),
        "large": await large(stubs[1]),
        "compressed": await compressed(stubs[1]),
        "deadline": await code_of(stubs[2].ModelInfer(request("slow", [0.0] * 512 * 256, 512), timeout=0.05)),
        "mistake": await code_of(stubs[2].ModelInfer(request("nobody", [0.0] * 4, 4), timeout=TIMEOUT_S)),
        "cancelled": await cancelled(stubs[3]),
        "after": values_of(await stubs[3].ModelInfer(request("affine", [1.0] * 4, 4), timeout=TIMEOUT_S)),
    }
    for channel in channels:
        await channel.close()
    json.dump(facts, sys.stdout)


async def many(stubs) -> int:
    """Count the right answers to many requests at once, over several connections."""

    async def ask(k: int) -> bool:
        response = await stubs[k % len(stubs)].ModelInfer(request("affine", [float(k)] * 4, 4), timeout=TIMEOUT_S)
        return values_of(response) == [2.0 * k + 1] * 4

    return sum(await asyncio.gather(*(ask(k) for k in range(REQUESTS))))


async def stream(stub) -> list[float]:
    """Ask on one stream, as fast as it takes requests."""
    call = stub.ModelStreamInfer(iter([request("affine", [float(k)] * 4, 4) for k in range(100)]), timeout=TIMEOUT_S)
    return sorted([values_of(answer.infer_response)[0] async for answer in call])


async def interleaved(stub) -> list[float]:
    """Ask on one stream, each time after the last answer."""
    call, seen = stub.ModelStreamInfer(timeout=TIMEOUT_S), []
    for k in range(20):
        await call.write(request("affine", [float(k)] * 4, 4))
        seen.append(values_of((await call.read()).infer_response)[0])
    await call.done_writing()
    seen.append(await call.read() is grpc.aio.EOF)
    return seen


async def large(stub) -> bool:
    """Send and receive several MiB on each of several calls at once."""
    row = [float(k % 251) for k in range(2_000_000)]
    answers = await asyncio.gather(*(stub.ModelInfer(request("echo", row, len(row)), timeout=TIMEOUT_S) for _ in "ab"))
    return all(values_of(answer) == row for answer in answers)


async def compressed(stub) -> list[float]:
    """Ask with each compression for one call."""
    ways = (grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression)
    calls = [stub.ModelInfer(request("affine", [7.0] * 4, 4), compression=way, timeout=TIMEOUT_S) for way in ways]
    return [values_of(await call)[0] for call in calls]


async def cancelled(stub) -> list[str]:
    """Cancel calls whose answers take long, when one that was sent after them on the same connection is answered."""
    calls = [stub.ModelInfer(request("waits", [0.0] * 4, 4), timeout=TIMEOUT_S) for _ in range(10)]
    await stub.ModelInfer(request("affine", [0.0] * 4, 4), timeout=TIMEOUT_S)
    for call in calls:
        call.cancel()
    return [await code_of(call) for call in calls]


async def code_of(call) -> str:
    """Name the code that a call ends with."""
    return (await call.code()).name


if __name__ == "__main__":
    asyncio.run(main())
