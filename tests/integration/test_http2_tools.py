"""nghttp, h2load and curl, which know HTTP/2 and nothing of gRPC, on each transport."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from serving.pb import open_inference_pb2 as pb
from tests.support.conformance import SERVICE, framed, raw_request, read_outputs
from tests.support.metrics import counter

TIMEOUT_S = 120
HEADERS = ["-H", "content-type: application/grpc", "-H", "te: trailers"]


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def url(server, method="ModelInfer"):
    return f"http://{server.address}/{SERVICE}/{method}"


@pytest.fixture
def body(tmp_path):
    """Writes a request to a file, as the one message of a gRPC call."""

    def write(message):
        path = tmp_path / "body"
        path.write_bytes(framed(message.SerializeToString()))
        return path

    return write


def affine(value, rows=1):
    return raw_request("affine", x=("FP32", np.full((rows, 4), value, np.float32)))


def answers_in(content):
    """Read the messages of a body."""
    while content:
        length = int.from_bytes(content[1:5], "big")
        response = pb.ModelInferResponse.FromString(content[5 : 5 + length])
        yield read_outputs(response)["y"]
        content = content[5 + length :]


def shown_by_nghttp(*arguments, headers=HEADERS):
    """Return nghttp's account of the frames, without its colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", run(tool("nghttp"), "-v", "-n", *headers, *arguments).decode())


def received(shown):
    return re.findall(r"recv \(stream_id=13\) (:?[\w-]+): (.*)", shown)


def test_nghttp_sees_an_answer_with_trailers_and_no_protocol_error(stock_server, body):
    shown = shown_by_nghttp("-d", body(affine(3)), url(stock_server))
    assert received(shown)[:2] == [(":status", "200"), ("content-type", "application/grpc")]
    assert ("grpc-status", "0") in received(shown)
    assert "recv RST_STREAM" not in shown
    assert set(re.findall(r"error_code=(\w+)", shown)) == {"NO_ERROR"}


def test_nghttp_hears_of_mistakes_before_it_has_ended(stock_server, body, transport):
    shown = shown_by_nghttp("-d", body(affine(1)), url(stock_server, "Nothing"))
    assert received(shown)[0] == (":status", "200")
    assert ("grpc-status", "12") in received(shown)
    if transport["transport"] == "native":  # grpcio takes any content type
        shown = shown_by_nghttp("-d", body(affine(1)), url(stock_server), headers=["-H", "content-type: text/plain"])
        assert received(shown)[0] == (":status", "415")


@pytest.mark.parametrize("options", [["-w", "11"], ["-W", "11"], ["--no-dep"], ["-b", "200"]])
def test_nghttp_is_answered_with_small_windows_priorities_and_padding(stock_server, body, transport, options):
    if transport["transport"] == "grpcio" and options[0] == "-b":
        pytest.skip("grpcio answers nothing to nghttp's padded requests")
    row = np.arange(20_000, dtype=np.float32).reshape(1, -1)
    path = body(raw_request("echo", x=("FP32", row)))
    (answer,) = answers_in(run(tool("nghttp"), *options, *HEADERS, "-d", path, url(stock_server)))
    np.testing.assert_array_equal(answer, row)
    shown = run(tool("nghttp"), "-v", "-n", *options, "-m", 5, *HEADERS, "-d", path, url(stock_server)).decode()
    assert len(re.findall(r"grpc-status: 0", shown)) == 5


def test_nghttp_hears_that_headers_in_many_frames_are_too_long(stock_server, body, transport):
    shown = shown_by_nghttp("--continuation", "-d", body(affine(3)), url(stock_server))
    refused = ("grpc-status", "8") in received(shown)
    assert refused or transport["transport"] == "grpcio"  # which lets some pass that are a little too long


@pytest.mark.parametrize(("connections", "streams"), [(1, 1), (1, 100), (8, 32), (50, 2)])
def test_every_request_of_h2load_is_answered_and_counted(stock_server, body, connections, streams):
    requests = 2000
    before = counter(stock_server, "penstock_requests_total", model="affine", code="OK")
    load = ["-n", requests, "-c", connections, "-m", streams, "-d", body(affine(1))]
    shown = run(tool("h2load"), *load, *HEADERS, url(stock_server)).decode()
    assert f"{requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed" in shown
    assert counter(stock_server, "penstock_requests_total", model="affine", code="OK") == before + requests


@pytest.mark.parametrize("bits", [11, 16, 30])
def test_h2load_is_answered_whatever_its_windows(stock_server, body, bits):
    row = np.ones((1, 50_000), np.float32)
    load = ["-n", 40, "-c", 2, "-m", 5, "-w", bits, "-W", bits, "-d", body(raw_request("echo", x=("FP32", row)))]
    shown = run(tool("h2load"), *load, *HEADERS, url(stock_server)).decode()
    assert "40 succeeded, 0 failed" in shown


def curl(server, path, *options):
    command = [tool("curl"), "-sS", "--noproxy", "*", "--http2-prior-knowledge", "--data-binary", f"@{path}"]
    return run(*command, *HEADERS, *options, url(server))


def test_curl_reads_the_body_and_the_trailers(stock_server, body, tmp_path):
    content = curl(stock_server, body(affine(3)), "-D", tmp_path / "headers")
    (answer,) = answers_in(content)
    assert answer.tolist() == [[7.0] * 4]
    head, _, trailers = (tmp_path / "headers").read_text().partition("\n\n")
    assert head.startswith("HTTP/2 200")
    assert "grpc-status: 0" in trailers or "grpc-status: 0" in head


def test_curl_uploads_and_downloads_megabytes(stock_server, body):
    row = np.arange(1_000_000, dtype=np.float32).reshape(1, -1)
    (answer,) = answers_in(curl(stock_server, body(raw_request("echo", x=("FP32", row)))))
    np.testing.assert_array_equal(answer, row)


def test_curl_hears_of_mistakes_in_headers_alone(stock_server, body, tmp_path):
    content = curl(stock_server, body(raw_request("nobody")), "-D", tmp_path / "headers")
    assert content == b""
    head = (tmp_path / "headers").read_text()
    assert head.startswith("HTTP/2 200")
    assert "grpc-status: 5" in head
