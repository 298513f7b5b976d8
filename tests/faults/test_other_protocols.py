"""Who speaks another protocol on the gRPC port is told so where that helps, shown out, and counted."""

import contextlib
import http.client

import pytest

from serving.wire import frames
from tests.support.siege import besieged

HTTP1 = [
    b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
    b"POST /inference.GRPCInferenceService/ModelInfer HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc",
    b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n",
    b"PRI * HTTP/1.1\r\n\r\n",
]
TLS_HELLO = bytes.fromhex("16030100b8010000b40303") + bytes(173)
NOISE = [bytes(64), b"\xff" * 64, b"\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n"[::-1], b"\x00\x00\x00\x04\x00"]


@pytest.fixture
def siege(repository):
    with besieged(repository) as siege:
        yield siege


@pytest.mark.parametrize("begun", HTTP1, ids=lambda begun: begun.split(b"\r\n")[0].decode())
def test_a_client_of_http_1_reads_in_plain_text_what_the_port_speaks(siege, begun):
    with siege.connect(greet=False) as lost:
        lost.send(begun)
        text = b"".join(iter(lambda: lost.socket.recv(65_536), b""))
    assert text.startswith(b"HTTP/1.1 505 HTTP Version Not Supported\r\n")
    assert b"content-type: text/plain" in text
    assert b"gRPC over HTTP/2" in text
    assert siege.refused() == {"not_http2": 1}
    assert siege.exported("not_http2") == 1


def test_a_client_of_http_1_that_takes_nothing_but_http_1_understands_the_answer(siege):
    with contextlib.closing(http.client.HTTPConnection(siege.server.address, timeout=30)) as lost:
        lost.request("GET", "/v2/health/ready")
        answer = lost.getresponse()
        assert answer.status == http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
        assert b"gRPC over HTTP/2" in answer.read()


@pytest.mark.parametrize("begun", NOISE, ids=range(len(NOISE)))
def test_noise_is_shown_out_without_a_word(siege, begun):
    with siege.connect(greet=False) as lost:
        lost.send(begun)
        lost.read_to_the_end()
        assert lost.seen == []
        assert lost._unread == b""
    assert siege.refused() == {"not_http2": 1}


def test_a_client_of_tls_hears_something_that_is_no_tls(siege):
    """Its library then says so, where silence would look like a refused certificate."""
    with siege.connect(greet=False) as lost:
        lost.send(TLS_HELLO)
        lost.read_to_the_end()
        assert lost.seen[0].kind == frames.SETTINGS
    assert siege.refused() == {"not_http2": 1}
