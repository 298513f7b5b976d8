"""The listening context as a transport on uvloop uses it: an echo server of `BufferedProtocol`s, clients of `ssl`."""

import asyncio
import socket
import ssl

import pytest
import uvloop

from serving.config import ServerConfig
from serving.transport.tls import (
    Certificates,
    ReloadingContext,
    TlsFiles,
    peer_names,
    speaks_http2,
)
from tests.support.certificates import Authority, TlsFolder, answers, client_context, tls_connection

AUTHORITY, OTHER = Authority(), Authority()
SERVER, NEXT = AUTHORITY.issue(), AUTHORITY.issue()
CLIENT, STRANGER = AUTHORITY.issue("client.example", common_name="Client"), OTHER.issue("stranger.example")


class Echo(asyncio.BufferedProtocol):
    """Sends back what comes, and notes what it learns of its peer when the connection is made."""

    def __init__(self, made):
        self._buffer = bytearray(1 << 16)
        self._made = made

    def connection_made(self, transport):
        connection = transport.get_extra_info("ssl_object")
        self._made.append((speaks_http2(connection), peer_names(connection)))
        self._transport = transport

    def get_buffer(self, _hint):
        return self._buffer

    def buffer_updated(self, count):
        self._transport.write(bytes(self._buffer[:count]))


class World:
    """A running echo server, its files, and what its loop complained about."""

    def __init__(self, tmp_path, client_ca=None):
        self.files = TlsFolder(tmp_path / "server")
        self.files.write(SERVER, client_ca)
        self.client_folder = tmp_path / "client"
        self.made, self.complaints = [], []

    async def __aenter__(self):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.complaints.append(context))
        self.certificates = Certificates(TlsFiles.of(ServerConfig(**self.files.options)))
        await self.certificates.load()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Echo(self.made), "127.0.0.1", 0,
            ssl=ReloadingContext(self.certificates), ssl_handshake_timeout=10.0,
        )  # fmt: skip
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def reload(self, leaf=None, client_ca=None):
        self.files.write(leaf, client_ca)
        for _ in range(2):
            await self.certificates.look()

    async def connect(self, context, *, name="localhost", session=None):
        """What a new connection is shown, whether it is answered, and its session."""

        def connect():
            try:
                with tls_connection(self.address, context, name=name, session=session) as connection:
                    return connection.getpeercert(True), answers(connection, b"hello"), connection.session
            except (ssl.SSLError, ConnectionError):
                return None, False, None

        return await asyncio.to_thread(connect)


def run(tmp_path, scenario, client_ca=None):
    async def main():
        async with World(tmp_path, client_ca) as world:
            await scenario(world)
            assert world.complaints == []

    uvloop.run(main())


@pytest.mark.parametrize("name", ["localhost", None], ids=["sni", "no_sni"])
def test_new_connections_get_the_new_certificate_and_old_ones_live_on(tmp_path, name):
    async def scenario(world):
        context = client_context(AUTHORITY)
        context.check_hostname = name is not None
        with await asyncio.to_thread(tls_connection, world.address, context) as old:
            assert await asyncio.to_thread(answers, old, b"before")
            assert (await world.connect(context, name=name))[:2] == (SERVER.der, True)
            await world.reload(NEXT)
            assert (await world.connect(context, name=name))[:2] == (NEXT.der, True)
            assert await asyncio.to_thread(answers, old, b"after")
            assert old.getpeercert(True) == SERVER.der
        assert world.made == [(True, ())] * 3

    run(tmp_path, scenario)


def test_a_protocol_learns_whether_its_peer_speaks_http2_and_who_it_is(tmp_path):
    async def scenario(world):
        for alpn in (("h2", "http/1.1"), ("http/1.1",), ()):
            context = client_context(AUTHORITY, CLIENT, folder=world.client_folder, alpn=alpn)
            assert (await world.connect(context))[1]
        names = ("Client", "client.example")
        assert world.made == [(True, names), (False, names), (False, names)]

    run(tmp_path, scenario, AUTHORITY)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_clients_without_a_certificate_of_ours_never_reach_the_protocol(tmp_path, version):
    async def scenario(world):
        for shown in (None, STRANGER):
            context = client_context(AUTHORITY, shown, folder=world.client_folder, version=version)
            assert not (await world.connect(context))[1]
        assert world.made == []

    run(tmp_path, scenario, AUTHORITY)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_whose_authority_was_removed_cannot_come_back_with_its_old_session(tmp_path, version):
    """With `sni_callback` it could: the sessions would be those of the context that listens, which never changes."""

    async def scenario(world):
        context = client_context(AUTHORITY, CLIENT, folder=world.client_folder, version=version)
        _, accepted, session = await world.connect(context)
        assert accepted
        assert (await world.connect(context, session=session))[1]
        await world.reload(client_ca=OTHER)
        assert not (await world.connect(context, session=session))[1]
        assert not (await world.connect(context))[1]
        stranger = client_context(AUTHORITY, STRANGER, folder=world.client_folder, version=version)
        assert (await world.connect(stranger))[1]

    run(tmp_path, scenario, AUTHORITY)


def test_a_peer_without_tls_is_closed_and_the_server_lives_on(tmp_path):
    async def scenario(world):
        def speak_plainly():
            host, _, port = world.address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                try:
                    return connection.recv(1)
                except ConnectionResetError:
                    return b""

        assert await asyncio.to_thread(speak_plainly) == b""
        assert world.made == []
        assert (await world.connect(client_context(AUTHORITY)))[1]

    run(tmp_path, scenario)
