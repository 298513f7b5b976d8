"""Certificates and contexts, on files and in memory; sockets are in tests/integration."""

import asyncio
import logging
import ssl

import pytest

from serving.config import ServerConfig
from serving.errors import ConfigError
from serving.transport.tls import Certificates, ReloadingContext, TlsFiles, peer_names, speaks_http2
from tests.support.certificates import Authority, TlsFolder, client_context

AUTHORITY, OTHER = Authority(), Authority()
LEAF, NEXT = AUTHORITY.issue(), AUTHORITY.issue()


@pytest.fixture
def files(tmp_path):
    folder = TlsFolder(tmp_path / "tls")
    folder.write(LEAF)
    return folder


def paths(folder):
    return TlsFiles.of(ServerConfig(**folder.options))


@pytest.fixture
def certificates(files):
    return load(files)


def load(folder):
    certificates = Certificates(paths(folder))
    asyncio.run(certificates.load())
    return certificates


def look(certificates, times=1):
    async def look():
        for _ in range(times):
            await certificates.look()

    asyncio.run(look())


def shown(certificates):
    return certificates.current.contents.pair.chain


class Handshake:
    """A client and a server in memory: the bytes that one writes are what the other reads."""

    def __init__(self, server_context, context):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
        self.server = server_context.wrap_bio(to_server, to_client, server_side=True)
        waiting = [self.client, self.server]
        while waiting:
            waiting = [side for side in waiting if not self._done(side)]

    @staticmethod
    def _done(side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True


# ---- what the configuration says -----------------------------------------------------------------------------------


def test_without_a_certificate_there_is_no_tls():
    assert TlsFiles.of(ServerConfig()) is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tls_cert": "c"}, "tls_cert is given without tls_key"),
        ({"tls_key": "k"}, "tls_key is given without tls_cert"),
        ({"tls_client_ca": "a"}, "tls_client_ca is given without tls_cert"),
        ({"control_plane_clients": ("a",)}, "control_plane_clients is given without tls_client_ca"),
        (
            {"tls_cert": "c", "tls_key": "k", "control_plane_clients": ("a",)},
            "control_plane_clients is given without tls_client_ca",
        ),
    ],
)
def test_options_that_need_each_other_are_named(options, problem):
    with pytest.raises(ConfigError, match=f"^{problem}; give both, or neither$"):
        ServerConfig(**options)


# ---- loading -------------------------------------------------------------------------------------------------------


def test_certificates_are_those_in_the_files_and_the_log_says_whose(files, caplog):
    files.write(LEAF, AUTHORITY)
    with caplog.at_level(logging.INFO):
        certificates = load(files)
    assert shown(certificates) == LEAF.chain
    assert certificates.requires_client_certificate
    assert caplog.messages == [
        f"TLS with the certificate in {files.cert}; clients show a certificate of {files.client_ca}"
    ]


def test_a_file_that_cannot_be_used_keeps_the_server_from_starting(files):
    files.client_ca.write_bytes(b"")
    with pytest.raises(ConfigError, match=f"^{files.client_ca}: holds nothing in PEM"):
        load(files)


def test_a_key_that_everybody_may_read_is_warned_of_once(files, caplog):
    files.key.chmod(0o644)
    certificates = load(files)
    look(certificates, times=3)
    assert caplog.messages == [
        f"{files.key}: every user of this machine may read this private key (mode 0644); chmod 600 it"
    ]


def test_certificates_before_they_are_loaded_are_our_own_mistake(files):
    with pytest.raises(AssertionError, match="bug: certificates were asked for"):
        _ = Certificates(paths(files)).current


# ---- following changes ---------------------------------------------------------------------------------------------


def test_a_change_is_taken_by_the_second_look_that_finds_it(files, certificates, caplog):
    before = certificates.current
    files.write(NEXT)
    look(certificates)
    assert certificates.current is before
    with caplog.at_level(logging.INFO):
        look(certificates, times=3)
    assert shown(certificates) == NEXT.chain
    assert caplog.messages == [f"TLS files changed; new connections get the certificate in {files.cert}"]


def test_files_that_stay_as_they_are_keep_their_context(files, certificates):
    before = certificates.current
    files.write(LEAF)  # touched, with the same bytes
    look(certificates, times=3)
    assert certificates.current is before


def test_client_authorities_change_like_certificates(files):
    files.write(LEAF, AUTHORITY)
    certificates = load(files)
    files.write(client_ca=OTHER)
    look(certificates, times=2)
    assert certificates.current.contents.client_ca == OTHER.pem
    (trusted,) = certificates.current.context.get_ca_certs(binary_form=True)
    assert trusted == ssl.PEM_cert_to_DER_cert(OTHER.pem.decode())


def test_a_certificate_that_is_replaced_before_its_key_waits_for_it_without_a_word(files, certificates, caplog):
    files.cert.write_bytes(NEXT.chain)
    look(certificates)
    assert shown(certificates) == LEAF.chain
    files.key.write_bytes(NEXT.key)
    look(certificates, times=2)
    assert shown(certificates) == NEXT.chain
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda files: files.cert.write_bytes(NEXT.chain), "not the private key of the certificate"),
        (lambda files: files.cert.write_bytes(NEXT.chain[:300]), "damaged or cut short"),
        (lambda files: files.key.write_bytes(b""), "holds nothing in PEM, expected one PRIVATE KEY"),
        (lambda files: files.key.unlink(), "No such file or directory"),
        (lambda files: files.client_ca.write_bytes(OTHER.pem[:300]), "damaged or cut short"),
    ],
    ids=["mismatch", "half_a_certificate", "empty_key", "no_key", "half_an_authority"],
)
def test_files_that_cannot_be_used_keep_the_old_ones_and_are_logged_once(files, caplog, damage, problem):
    files.write(LEAF, AUTHORITY)
    certificates = load(files)
    before = certificates.current
    damage(files)
    look(certificates, times=5)
    assert certificates.current is before
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is None
    assert record.message.startswith("TLS files changed and cannot be used, keeping the old ones: ")
    assert problem in record.message
    files.write(NEXT, OTHER)
    look(certificates, times=2)
    assert shown(certificates) == NEXT.chain
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_volume_of_kubernetes_is_followed_through_its_links(tmp_path):
    """A mounted secret is a link to `..data`, which is a link to a folder; an update replaces the middle one."""
    for name, leaf in (("..v1", LEAF), ("..v2", NEXT)):
        TlsFolder(tmp_path / name).write(leaf)
    (tmp_path / "..data").symlink_to("..v1")
    files = TlsFolder(tmp_path)
    files.cert.symlink_to("..data/tls.crt")
    files.key.symlink_to("..data/tls.key")
    certificates = load(files)
    (tmp_path / "..data_tmp").symlink_to("..v2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    look(certificates, times=2)
    assert shown(certificates) == NEXT.chain


def test_following_looks_until_it_is_cancelled_and_outlives_a_mistake_of_ours(certificates, monkeypatch, caplog):
    async def follow():
        looked = asyncio.Semaphore(0)

        async def look():
            looked.release()
            raise ValueError("a mistake")

        monkeypatch.setattr(certificates, "look", look)
        following = asyncio.create_task(certificates.follow(0))
        for _ in range(2):
            await asyncio.wait_for(looked.acquire(), 10)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    asyncio.run(follow())
    assert "looking for changed TLS files failed; trying again" in caplog.messages


# ---- contexts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_gives_the_newest_certificate_and_http2(files, certificates, version):
    context = ReloadingContext(certificates)
    for leaf in (LEAF, NEXT):
        files.write(leaf)
        look(certificates, times=2)
        handshake = Handshake(context, client_context(AUTHORITY, version=version))
        assert handshake.client.getpeercert(binary_form=True) == leaf.der
        assert handshake.client.version() == handshake.server.version() == version.name.replace("_", ".")
        assert handshake.server.compression() is None
        assert speaks_http2(handshake.server)


def test_tls_1_2_takes_only_what_http2_allows(certificates):
    context = client_context(AUTHORITY, version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA")
    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
        Handshake(ReloadingContext(certificates), context)


def test_older_versions_renegotiation_and_tickets_are_off(certificates):
    context = certificates.current.context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_TICKET
    handshake = Handshake(context, client_context(AUTHORITY))
    handshake.server.write(b"x")
    assert handshake.client.read(1) == b"x"
    assert not handshake.client.session.has_ticket


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)], ids=["none", "another"])
def test_a_peer_that_did_not_negotiate_http2_can_be_told(certificates, alpn):
    handshake = Handshake(ReloadingContext(certificates), client_context(AUTHORITY, alpn=alpn))
    assert not speaks_http2(handshake.server)


def test_the_listening_context_itself_holds_no_certificate(certificates):
    context = ReloadingContext(certificates)
    with pytest.raises(ssl.SSLError, match=r"NO_SHARED_CIPHER|NO_SUITABLE"):
        Handshake(super(ReloadingContext, context), client_context(AUTHORITY))


@pytest.mark.parametrize(
    ("leaf", "names"),
    [
        (AUTHORITY.issue("a.example", "10.0.0.1", "b.example", common_name="Ops team"),
         ("Ops team", "a.example", "b.example")),
        (AUTHORITY.issue("a@example.com"), ()),
    ],
    ids=["several", "none"],
)  # fmt: skip
def test_the_names_of_a_client_are_its_common_name_and_dns_names(tmp_path, files, leaf, names):
    files.write(LEAF, AUTHORITY)
    context = client_context(AUTHORITY, leaf, folder=tmp_path / "client")
    assert peer_names(Handshake(ReloadingContext(load(files)), context).server) == names


def test_a_client_that_nobody_asked_for_a_certificate_has_no_names(tmp_path, certificates):
    context = client_context(AUTHORITY, AUTHORITY.issue("a.example"), folder=tmp_path / "client")
    assert peer_names(Handshake(ReloadingContext(certificates), context).server) == ()


@pytest.mark.parametrize("leaf", [None, OTHER.issue("a.example")], ids=["no_certificate", "another_authority"])
def test_a_client_without_a_certificate_of_ours_fails_the_handshake(tmp_path, files, leaf):
    files.write(LEAF, AUTHORITY)
    context = client_context(AUTHORITY, leaf, folder=tmp_path / "client")
    with pytest.raises(ssl.SSLError, match=r"PEER_DID_NOT_RETURN_A_CERTIFICATE|CERTIFICATE_VERIFY_FAILED"):
        Handshake(ReloadingContext(load(files)), context)
