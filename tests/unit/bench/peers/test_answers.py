import numpy as np
import pytest

from bench.peers import answers
from bench.peers.model import read_model
from bench.peers.peer import PeerFailed
from bench.peers.process import started
from serving.errors import ConfigError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import infer_message
from serving.types import Datatype, TensorSpec
from tests.support import graphs
from tests.support.fake_peer import Installed


def check(model, messages, behaviour):
    expected = answers.expected(model, messages)
    with started(Installed(behaviour), model) as ports:
        answers.check(model, ports.grpc, messages, expected)


def test_the_expected_answers_are_onnxruntime_s(affine, messages):
    rows = np.random.default_rng(7).random((1, 4), np.float32)
    first, second = answers.expected(affine, messages)
    assert np.array_equal(first["y"], 2 * rows + 1)
    assert second["y"].shape == (2, 4)


def test_no_more_requests_are_checked_than_needed(affine, messages):
    assert len(answers.expected(affine, messages * 20)) == answers.CHECKED_MAX


def test_right_answers_pass(affine, messages):
    check(affine, messages, "right")


def test_a_wrong_answer_is_told_with_its_place_and_both_values(affine, messages):
    with pytest.raises(PeerFailed, match=r"output 'y' is 6\.\d+ at \[0, 0\], onnxruntime says 2\.\d+"):
        check(affine, messages, "wrong")


def test_a_refusal_is_told_in_one_line(affine, messages):
    with pytest.raises(PeerFailed, match="gives INVALID_ARGUMENT: no thanks"):
        check(affine, messages, "refusing")


def test_rows_mixed_up_between_requests_are_noticed(affine, messages):
    model_rows = [np.full((1, 4), value, np.float32) for value in (1, 2)]
    alike = [infer_message("affine", {"x": (Datatype.FP32, rows)}).SerializeToString() for rows in model_rows]
    with pytest.raises(PeerFailed, match=r"answers wrongly to 2 requests at once: output 'y' is 5\.0 at"):
        check(affine, alike, "mixing")


@pytest.mark.parametrize(
    ("model", "tensor", "words"),
    [
        ("other", ("x", Datatype.FP32, np.zeros((1, 4), np.float32)), "is for model 'other', expected 'affine'"),
        ("affine", ("z", Datatype.FP32, np.zeros((1, 4), np.float32)), "has input 'z' FP32, the model takes 'x' FP32"),
        ("affine", ("x", Datatype.INT32, np.zeros((1, 4), np.int32)), "has input 'x' INT32, the model takes 'x' FP32"),
        ("affine", ("x", Datatype.FP32, np.zeros((1, 3), np.float32)), "fails on the payload: .*; send other rows"),
    ],
)
def test_requests_that_do_not_fit_the_model_are_refused(affine, model, tensor, words):
    name, datatype, array = tensor
    message = infer_message(model, {name: (datatype, array)}).SerializeToString()
    with pytest.raises(ConfigError, match=words):
        answers.expected(affine, [message])


def test_a_request_without_an_input_is_refused(tmp_path):
    (tmp_path / "simple.onnx").write_bytes(graphs.add_and_subtract())
    model = read_model(tmp_path / "simple.onnx")
    spec = model.signature.inputs[0]
    array = np.zeros([1 if length < 0 else length for length in spec.shape], spec.datatype.dtype)
    message = infer_message("simple", {spec.name: (spec.datatype, array)}).SerializeToString()
    with pytest.raises(ConfigError, match="a request lacks input 'INPUT1'"):
        answers.expected(model, [message])


def test_a_request_whose_bytes_do_not_fit_its_shape_is_refused(affine, messages):
    message = pb.ModelInferRequest.FromString(messages[0])
    message.raw_input_contents[0] = b"1234"
    with pytest.raises(ConfigError, match="cannot be read: tensor 'x': raw contents hold 4 bytes, expected 16"):
        answers.expected(affine, [message.SerializeToString()])


def differs(datatype, received, right):
    return answers._difference(TensorSpec("y", datatype, ()), np.asarray(received), np.asarray(right))


def test_rounding_is_no_difference():
    right = np.array([1.0, 1e-9, 0.0, 1000.0], np.float32)
    assert differs(Datatype.FP32, right * np.float32(1 + 1e-6) + np.float32(1e-6), right) is None


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_a_hundredth_is_a_difference(share):
    right = np.array([0.5, 0.25], np.float32)
    assert differs(Datatype.FP32, right * np.float32(share), right) is not None


def test_nan_equals_nan_and_infinity_infinity():
    odd = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert differs(Datatype.FP32, odd, odd.copy()) is None
    assert differs(Datatype.FP32, -odd, odd) is not None


def test_a_tensor_without_elements_is_right():
    assert differs(Datatype.FP32, np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)) is None


def test_whole_numbers_and_strings_are_exact():
    assert differs(Datatype.INT64, [1, 2], [1, 3]) == "is 2 at [1], onnxruntime says 3"
    strings = np.array(["a", "b"], np.object_)
    assert differs(Datatype.BYTES, strings, strings.copy()) is None
    assert differs(Datatype.BYTES, strings, np.array(["a", "c"], np.object_)) == "is b at [1], onnxruntime says c"


def test_bfloat16_is_compared_as_numbers():
    one, next_to_one = np.array([0x3F80], np.uint16), np.array([0x3F81], np.uint16)
    assert differs(Datatype.BF16, one, next_to_one) is None
    assert differs(Datatype.BF16, one, np.array([0x4000], np.uint16)) is not None


def test_another_shape_or_type_is_a_difference():
    ones = np.ones((2, 3), np.float32)
    assert differs(Datatype.FP32, ones.reshape(3, 2), ones) == "has shape [3, 2], onnxruntime's has [2, 3]"
    assert differs(Datatype.FP32, ones.astype(np.float64), ones) == "is float64, onnxruntime's is float32"


def test_a_list_of_one_number_per_row_stands_for_the_number():
    """Triton cannot say it in another way."""
    assert differs(Datatype.INT64, [[1], [2]], [1, 2]) is None
    assert differs(Datatype.INT64, [[1], [2]], [1, 3]) is not None
    assert differs(Datatype.INT64, [[1, 2]], [1, 2]) is not None
