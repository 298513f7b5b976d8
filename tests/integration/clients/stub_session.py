"""The generated stubs under another protobuf: `stub_session.py ADDRESS`, with the checkout on PYTHONPATH.

Imports nothing of the server but `serving.pb`. Prints what it found as JSON; the test that started it judges.
"""

import json
import sys
from array import array

import google.protobuf
import grpc

from serving.pb import model_config_pb2 as config_pb
from serving.pb import model_config_pb2_grpc, open_inference_pb2_grpc
from serving.pb import open_inference_pb2 as pb

TIMEOUT_S = 30


def main() -> None:
    """Round-trip a message of every type, then make real calls."""
    facts = {"protobuf": google.protobuf.__version__, "round trips": list(map(round_trip, (pb, config_pb)))}
    facts["unused module"] = model_config_pb2_grpc.GRPC_GENERATED_VERSION
    with grpc.insecure_channel(sys.argv[1], options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        facts["ready"] = stub.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT_S).ready
        config = stub.ModelConfig(pb.ModelConfigRequest(name="affine"), timeout=TIMEOUT_S).config
        facts["config"] = [config.name, config.max_batch_size, config_pb.DataType.Name(config.input[0].data_type)]
        response = stub.ModelInfer(request(), timeout=TIMEOUT_S)
        facts["infer"] = [response.id, array("f", response.raw_output_contents[0]).tolist()]
        (answer,) = stub.ModelStreamInfer(iter([request()]), timeout=TIMEOUT_S)
        facts["stream"] = [answer.infer_response.id, list(answer.infer_response.outputs[0].shape)]
    json.dump(facts, sys.stdout)


def request() -> pb.ModelInferRequest:
    """Ask for y = 2 x + 1 of two rows."""
    message = pb.ModelInferRequest(
        model_name="affine", id="one", parameters={"tag": pb.InferParameter(bool_param=True)}
    )
    message.inputs.add(name="x", datatype="FP32", shape=[2, 4])
    message.raw_input_contents.append(array("f", range(8)).tobytes())
    return message


def round_trip(module) -> int:
    """Write and read a message of every type of a module with its plain fields set; return how many there are."""
    names = module.DESCRIPTOR.message_types_by_name
    for name in names:
        message = filled(getattr(module, name)())
        if type(message).FromString(message.SerializeToString()) != message:
            raise AssertionError(name)
    return len(names)


def filled(message):
    """Set every field that holds one number or string to 1."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, str | bytes | bool | int | float):
            setattr(message, field.name, type(value)(1))
    return message


if __name__ == "__main__":
    main()
