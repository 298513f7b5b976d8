"""What keeps a server from starting is one line that says so, and an exit status that is not 0."""

import socket
import subprocess
import sys

import pytest

from tests.support.certificates import Authority, TlsFolder


def serve(*arguments):
    command = [sys.executable, "-m", "serving", "serve", "--grpc-port", "0", "--http-port", "0", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def only_line(result):
    """The one line for an operator; log lines of a server that comes and goes are not counted."""
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("penstock: ")]
    assert result.stderr.endswith(f"{line}\n")
    return line


def test_a_grpc_port_in_use_is_named(repository, taken_port):
    result = serve("--models", repository, "--grpc-port", taken_port, "--log-level", "error")
    assert only_line(result).startswith(f"penstock: cannot listen on 127.0.0.1:{taken_port} for gRPC: it is in use")
    assert result.stderr.count("\n") == 1


def test_an_http_port_in_use_is_named(repository, taken_port):
    result = serve("--models", repository, "--http-port", taken_port, "--log-level", "error")
    assert f"cannot listen on 127.0.0.1:{taken_port} for HTTP" in only_line(result)
    assert result.stderr.count("\n") == 1


def test_a_missing_models_folder_is_named(tmp_path):
    result = serve("--models", tmp_path / "nowhere", "--log-level", "error")
    assert only_line(result) == f"penstock: model repository {tmp_path}/nowhere: No such file or directory"
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--grpc-port", "70000"], "grpc_port = 70000, expected at most 65535"),
        (["--drain-timeout-s", "soon"], "drain_timeout_s = 'soon', expected a number"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1:0 for gRPC"),
        (["--config", "/nowhere.toml"], "/nowhere.toml: No such file or directory"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(repository, arguments, problem):
    assert problem in only_line(serve("--models", repository, *arguments))


# ---- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    folder = TlsFolder(tmp_path / "tls")
    folder.write(Authority().issue(), Authority())
    return folder


def tls_flags(files):
    return ["--tls-cert", files.cert, "--tls-key", files.key, "--tls-client-ca", files.client_ca]


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.unlink(), "No such file or directory; name a PEM file that the server's user may read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "that is damaged or cut short, expected one"),
    ],
    ids=["missing", "cut"],
)
def test_a_tls_file_that_cannot_be_read_is_named(repository, files, name, spoil, problem):
    path = getattr(files, name)
    spoil(path)
    line = only_line(serve("--models", repository, *tls_flags(files), "--log-level", "error"))
    assert line.startswith(f"penstock: {path}: ")
    assert problem in line


def test_a_key_that_does_not_fit_is_named_with_its_certificate(repository, files):
    files.key.write_bytes(Authority().issue().key)
    line = only_line(serve("--models", repository, *tls_flags(files), "--log-level", "error"))
    assert line.startswith(f"penstock: {files.key}: not the private key of the certificate in {files.cert}; expected")


def test_a_certificate_without_its_key_is_half_a_configuration(repository, files):
    line = only_line(serve("--models", repository, "--tls-cert", files.cert))
    assert line == "penstock: tls_cert is given without tls_key; give both, or neither"


def test_a_grpc_port_in_use_is_named_over_tls_too(repository, files, taken_port):
    result = serve("--models", repository, "--grpc-port", taken_port, *tls_flags(files), "--log-level", "error")
    assert only_line(result).startswith(f"penstock: cannot listen on 127.0.0.1:{taken_port} for gRPC: it is in use")
