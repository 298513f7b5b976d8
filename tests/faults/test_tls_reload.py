"""Certificates that change while a server runs: new connections get the new ones, old connections live on.

A client that connects again proves by whom it trusts which certificate it was shown; an open channel that goes on
although it trusts only the old CA proves that its connection is the old one.
"""

import contextlib
import logging
import ssl

import numpy as np
import pytest

from serving.errors import RemoteError
from serving.transport.client import Client, ClientTls
from serving.transport.tls import Certificates
from serving.types import Datatype
from tests.support import graphs
from tests.support.certificates import Authority, TlsFolder, answers, client_context, tls_connection
from tests.support.servers import server_thread

OLD, NEW = Authority(), Authority()
ROWS = np.ones((1, 4), np.float32)


class World:
    """A server, its files, and clients that trust what they are told to trust."""

    def __init__(self, server, files, folder, stack):
        self.server, self.files, self._folder, self._stack = server, files, folder, stack

    def client(self, trusted, shown=None):
        folder = TlsFolder(self._folder / f"client{len(list(self._folder.iterdir()))}")
        folder.write(shown, trusted)
        tls = ClientTls(folder.client_ca, *((folder.cert, folder.key) if shown else ()))
        return self._stack.enter_context(Client(self.server.address, tls=tls))

    def look(self, times=2):
        """What the server does every `tls_reload_interval_s`; a change counts at the second look that finds it."""
        for _ in range(times):
            self.server.complete(self.server.server._certificates.look())


@pytest.fixture
def world(repository, transport, tmp_path):
    """Starts a server that shows a certificate of OLD."""
    graphs.write_model(repository, "affine", graphs.affine())
    with contextlib.ExitStack() as stack:

        def start(client_ca=None, **options):
            files = TlsFolder(tmp_path / "server")
            files.write(OLD.issue(), client_ca)
            chosen = {"tls_reload_interval_s": 0, **transport, **files.options, **options}
            (tmp_path / "clients").mkdir()
            return World(
                stack.enter_context(server_thread(repository, **chosen)), files, tmp_path / "clients", stack
            )  # fmt: skip

        yield start


def tasks_of(world):
    return [task.get_coro().__qualname__ for task in world.server.server._following]


def is_answered(client):
    try:
        _, outputs = client.infer("affine", {"x": (Datatype.FP32, ROWS)})
    except RemoteError as error:
        assert error.code == "UNAVAILABLE"  # noqa: PT017 - no answer is an answer here
        return False
    np.testing.assert_array_equal(outputs["y"], 3 * ROWS)
    return True


def test_new_connections_get_the_new_certificate_and_old_ones_live_on(world):
    world = world()
    old = world.client(OLD)
    assert is_answered(old)
    world.files.write(NEW.issue())
    world.look()
    assert is_answered(world.client(NEW))
    assert not is_answered(world.client(OLD))
    assert is_answered(old)


def test_a_removed_client_authority_is_refused_on_new_connections(world):
    world = world(client_ca=OLD)
    ours, theirs = OLD.issue("ours.example"), NEW.issue("theirs.example")
    before = world.client(OLD, ours)
    assert is_answered(before)
    assert not is_answered(world.client(OLD, theirs))
    world.files.write(client_ca=NEW)
    world.look()
    assert is_answered(world.client(OLD, theirs))
    assert not is_answered(world.client(OLD, ours))
    assert is_answered(before)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_does_not_outlive_the_authority_of_its_client(world, tmp_path, version):
    """A resumed session shows no certificate, so it must not be resumed once the CA is gone."""
    world = world(client_ca=OLD)
    address = world.server.address
    context = client_context(OLD, OLD.issue("ours.example"), folder=tmp_path / "ours", version=version)
    with tls_connection(address, context) as connection:
        assert answers(connection)
        session = connection.session
    world.files.write(client_ca=NEW)
    world.look()
    try:
        with tls_connection(address, context, session=session) as connection:
            assert not answers(connection)
    except (ssl.SSLError, ConnectionError):
        pass  # refused before the client's side of the handshake was done


def test_half_written_files_keep_the_old_certificate_until_they_are_whole(world, caplog):
    world = world()
    leaf = NEW.issue()
    world.files.cert.write_bytes(leaf.chain[:200])
    world.look(times=3)
    assert is_answered(world.client(OLD))
    world.files.cert.write_bytes(leaf.chain)  # its key is still the old one
    world.look(times=3)
    assert is_answered(world.client(OLD))
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "damaged or cut short" in errors[0]
    assert "not the private key of the certificate" in errors[1]
    world.files.key.write_bytes(leaf.key)
    world.look()
    assert is_answered(world.client(NEW))


def test_a_server_looks_for_changes_by_itself(world):
    world = world(tls_reload_interval_s=0.001)
    assert Certificates.follow.__qualname__ in tasks_of(world)
    certificates = world.server.server._certificates
    before = certificates.current
    world.files.write(NEW.issue())
    world.server.wait_until(lambda: certificates.current is not before)
    assert is_answered(world.client(NEW))


def test_a_server_with_an_interval_of_0_never_looks(world):
    world = world(tls_reload_interval_s=0)
    assert Certificates.follow.__qualname__ not in tasks_of(world)
