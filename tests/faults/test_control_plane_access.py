"""Who may load and unload models is judged by the peer's address."""

import ipaddress

import pytest

from serving.errors import RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.transport.grpcio import _peer_host
from tests.support import graphs
from tests.support.servers import server_thread

CALLS = [
    ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse),
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse),
]


@pytest.mark.parametrize("access", ["loopback", "on"])
def test_a_peer_on_this_machine_may_unload_and_load(repository, access):
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository, control_plane=access) as server, Client(server.address) as client:
        for method, request, answer in CALLS:
            client.call(method, request(model_name="affine"), answer)
            ready = client.call("ModelReady", pb.ModelReadyRequest(name="affine"), pb.ModelReadyResponse).ready
            assert ready == (method == "RepositoryModelLoad")


def test_nobody_may_when_the_control_plane_is_off(repository):
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository, control_plane="off") as server, Client(server.address) as client:
        for method, request, answer in CALLS:
            with pytest.raises(RemoteError, match=r"open to nobody .--control-plane off") as caught:
                client.call(method, request(model_name="affine"), answer)
            assert caught.value.code == "PERMISSION_DENIED"
        assert client.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv4:10.1.2.3:5000", "10.1.2.3"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[::1]:5000", "::1"),
        ("ipv6:%5B::ffff:127.0.0.1%5D:5000", str(ipaddress.ip_address("::ffff:127.0.0.1"))),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::1"),
        ("unix:/tmp/socket", None),
        ("unix:", None),
        ("ipv4:localhost:5000", None),
        ("", None),
    ],
)
def test_a_peer_is_known_by_its_address_alone(peer, host):
    assert _peer_host(peer) == host
