"""The server over TLS, as stock clients and our own commands see it; on every transport."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from serving.errors import ConfigError, RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serving.pb.penstock_pb2 import DriftPauseRequest, DriftPauseResponse
from serving.transport.client import Client, ClientTls
from serving.transport.monitor import MONITOR_SERVICE
from serving.types import Datatype
from tests.support import graphs
from tests.support.certificates import TIMEOUT_S, Authority, TlsFolder, grpc_channel
from tests.support.servers import server_thread

ROOT = Path(__file__).parents[2]
AUTHORITY, OTHER = Authority(), Authority()
SERVER = AUTHORITY.below().issue()
CLIENT, STRANGER = AUTHORITY.issue("client.example"), OTHER.issue("stranger.example")
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def files(tmp_path):
    """The server's files; the CA's own certificate lies beside them as `ca.pem`."""
    folder = TlsFolder(tmp_path / "tls")
    folder.write(SERVER)
    (tmp_path / "tls" / "ca.pem").write_bytes(AUTHORITY.pem)
    return folder


@pytest.fixture
def ca(files):
    return files.cert.with_name("ca.pem")


@pytest.fixture
def shown(tmp_path):
    """A client's certificate and key, by whose CA it is."""

    def write(leaf):
        folder = TlsFolder(tmp_path / "client")
        folder.write(leaf)
        return folder

    return write


@pytest.fixture
def serve(repository, transport):
    graphs.write_model(repository, "affine", graphs.affine())
    return lambda **options: server_thread(repository, **transport, **options)


def infer(client):
    _, outputs = client.infer("affine", {"x": (Datatype.FP32, ROWS)})
    np.testing.assert_array_equal(outputs["y"], 2 * ROWS + 1)


def refusal(client):
    with client, pytest.raises(RemoteError) as caught:
        infer(client)
    assert caught.value.code == "UNAVAILABLE"
    return str(caught.value).removeprefix("UNAVAILABLE: ")


def test_a_stock_client_is_answered_over_tls(serve, files):
    with serve(**files.options) as server, grpc_channel(server.address, AUTHORITY) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live
        answers = list(
            stub.ModelStreamInfer(iter([pb.ModelInferRequest(model_name="gone", id="7")]), timeout=TIMEOUT_S)
        )
        assert [answer.infer_response.id for answer in answers] == ["7"]


def test_our_client_is_answered_over_tls_by_address_and_by_name(serve, files, ca):
    with serve(**files.options) as server:
        for address in (server.address, server.address.replace("127.0.0.1", "localhost")):
            with Client(address, tls=ClientTls(ca)) as client:
                infer(client)


def test_a_client_that_trusts_another_authority_refuses_the_server(serve, files, tmp_path):
    (tmp_path / "other.pem").write_bytes(OTHER.pem)
    with serve(**files.options) as server:
        line = refusal(Client(server.address, tls=ClientTls(tmp_path / "other.pem")))
    assert line.startswith(f"the certificate of {server.address} is not to be trusted (")
    assert line.endswith("; name the PEM file of its CA with --tls-ca")


def test_a_server_certificate_for_another_name_is_refused(serve, files, ca):
    files.write(AUTHORITY.issue("elsewhere.example"))
    with serve(**files.options) as server:
        line = refusal(Client(server.address, tls=ClientTls(ca)))
    assert line == (
        f"the certificate of {server.address} is for another name; name in --address one that the certificate holds"
    )


def test_a_client_without_tls_is_told_and_the_server_lives_on(serve, files, ca):
    with serve(**files.options) as server:
        assert refusal(Client(server.address)) == (
            f"{server.address} closed the connection at once; if it speaks TLS, add --tls-ca FILE, or --tls"
        )
        with Client(server.address, tls=ClientTls(ca)) as client:
            infer(client)


def test_a_client_of_tls_is_told_of_a_server_without_it(serve, ca):
    with serve() as server:
        assert refusal(Client(server.address, tls=ClientTls(ca))) == (
            f"{server.address} answers without TLS; leave out --tls and its kin, or name the port that speaks it"
        )


# ---- mTLS ----------------------------------------------------------------------------------------------------------


def test_a_client_with_a_certificate_of_ours_is_answered(serve, files, ca, shown):
    files.write(client_ca=AUTHORITY)
    client = shown(CLIENT)
    with serve(**files.options) as server:
        with Client(server.address, tls=ClientTls(ca, client.cert, client.key)) as ours:
            infer(ours)
        with grpc_channel(server.address, AUTHORITY, CLIENT) as channel:
            assert GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live


def test_a_client_without_a_certificate_is_refused(serve, files, ca):
    files.write(client_ca=AUTHORITY)
    with serve(**files.options) as server:
        assert refusal(Client(server.address, tls=ClientTls(ca))) == (
            f"{server.address} closed the connection; it may refuse a client without a certificate: "
            "give --tls-cert FILE --tls-key FILE"
        )


def test_a_client_with_a_certificate_of_another_authority_is_refused(serve, files, ca, shown):
    files.write(client_ca=AUTHORITY)
    client = shown(STRANGER)
    with serve(**files.options) as server:
        assert refusal(Client(server.address, tls=ClientTls(ca, client.cert, client.key))) == (
            f"{server.address} closed the connection; it may refuse the certificate in --tls-cert: "
            "give one of a CA that the server trusts"
        )


@pytest.mark.parametrize(
    ("options", "leaf", "allowed"),
    [
        ({}, CLIENT, False),
        ({"control_plane_clients": ("client.example", "ops")}, CLIENT, True),
        ({"control_plane_clients": ("ops",)}, CLIENT, False),
        ({"control_plane_clients": ("ops",)}, AUTHORITY.issue("x.example", common_name="ops"), True),
        ({"control_plane_clients": ("client.example",), "control_plane": "off"}, CLIENT, False),
    ],
    ids=["nobody_named", "dns_name", "another_name", "common_name", "off"],
)
def test_named_clients_may_use_the_control_plane_from_elsewhere(
    serve, files, ca, shown, monkeypatch, options, leaf, allowed
):
    monkeypatch.setattr("serving.controlplane._is_loopback", lambda _: False)  # every peer comes from elsewhere
    files.write(client_ca=AUTHORITY)
    client = shown(leaf)
    with (
        serve(**files.options, **options) as server,
        Client(server.address, tls=ClientTls(ca, client.cert, client.key)) as ours,
    ):
        load, pause = pb.RepositoryModelLoadRequest(model_name="affine"), DriftPauseRequest(name="affine", pause_s=60)
        calls = [
            partial(ours.call, "RepositoryModelLoad", load, pb.RepositoryModelLoadResponse),
            partial(ours.call, "DriftPause", pause, DriftPauseResponse, service=MONITOR_SERVICE),
        ]
        for call in calls:
            if allowed:
                call()
            else:
                with pytest.raises(RemoteError, match="PERMISSION_DENIED: the control plane of this server is open to"):
                    call()
        infer(ours)


# ---- the commands --------------------------------------------------------------------------------------------------


def penstock(*arguments, stdin="", environment=None):
    command = [sys.executable, "-W", "error", "-m", "serving", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False, timeout=60, env=environment
    )


def test_the_commands_speak_tls_and_show_a_certificate(serve, files, ca, shown):
    files.write(client_ca=AUTHORITY)
    client = shown(CLIENT)
    with serve(**files.options) as server:
        common = ["--address", server.address, "--tls-ca", ca, "--tls-cert", client.cert, "--tls-key", client.key]
        asked = penstock("infer", "--model", "affine", "--input", "-", *common, stdin='{"x": [[0, 1, 2, 3]]}')
        assert (asked.stderr, json.loads(asked.stdout)) == ("", {"y": [[1.0, 3.0, 5.0, 7.0]]})
        for verb in ("list", "ready", "stats"):
            assert penstock("models", verb, *common).returncode == 0
        unloaded = penstock("models", "unload", "--model", "affine", *common)
        assert unloaded.stdout == "affine is unloaded\n"


def test_tls_alone_trusts_what_the_machine_trusts(serve, files, ca, monkeypatch):
    with serve(**files.options) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        assert penstock("models", "ready", "--tls", "--address", server.address).stdout == "server is ready\n"
        monkeypatch.delenv("SSL_CERT_FILE")
        refused = penstock("models", "ready", "--tls", "--address", server.address)
        assert "is not to be trusted" in refused.stderr


def test_the_authority_can_be_named_in_the_environment(serve, files, ca, monkeypatch):
    monkeypatch.setenv("PENSTOCK_TLS_CA", str(ca))
    with serve(**files.options) as server:
        assert penstock("models", "ready", "--address", server.address).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--tls-cert", "c.pem"], "--tls-cert and --tls-key go together; one of them is missing"),
        (["--tls-ca", "ca.pem", "--tls-key", "k.pem"], "--tls-cert and --tls-key go together; one of them is missing"),
        (["--tls-ca", "gone.pem"], "penstock: gone.pem: No such file or directory"),
        (["--tls-ca", "pyproject.toml"], "penstock: pyproject.toml: holds nothing in PEM"),
        (["--tls", "--tls-cert", "gone.pem", "--tls-key", "gone.key"], "penstock: gone.pem: No such file or directory"),
    ],
)
def test_a_file_that_a_command_cannot_use_is_one_line(arguments, problem):
    result = penstock("models", "list", *arguments)
    assert result.returncode != 0
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_a_client_reads_its_files_before_it_connects(files, ca):
    with pytest.raises(ConfigError, match="not the private key of the certificate"):
        Client("127.0.0.1:1", tls=ClientTls(ca, ca, files.key))


def test_a_server_that_is_not_there_is_named_over_tls_too(ca):
    assert refusal(Client("127.0.0.1:1", tls=ClientTls(ca))).startswith("no server answers at 127.0.0.1:1;")


def test_a_client_may_trust_the_servers_own_certificate(serve, files):
    with serve(**files.options) as server, Client(server.address, tls=ClientTls(files.cert)) as client:
        infer(client)


def test_the_log_of_refused_peers_is_silent(serve, files, ca, caplog):
    files.write(client_ca=AUTHORITY)
    with serve(**files.options) as server:
        caplog.clear()
        for tls in (None, ClientTls(ca)):
            refusal(Client(server.address, tls=tls))
        assert caplog.records == []
