import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from serving.errors import ConfigError
from serving.transport.pem import (
    PEM_BYTES_MAX,
    KeyPair,
    describe_exposure,
    read_authorities,
    read_key_pair,
    read_pem,
    read_system_authorities,
)
from tests.support.certificates import Authority, TlsFolder

AUTHORITY = Authority()
LEAF = AUTHORITY.issue()
CHAINED = AUTHORITY.below().issue()


@pytest.fixture
def files(tmp_path):
    folder = TlsFolder(tmp_path / "tls")
    folder.write(LEAF, AUTHORITY)
    return folder


def open_copies():
    """Descriptors of bytes that were lent to OpenSSL; other threads of the tests' process open others."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # another thread has closed it meanwhile
            targets.append(str(link.readlink()))
    return sum("penstock-pem" in target for target in targets)


def complaint(read, *arguments):
    """The one line of a ConfigError, and no file left open."""
    with pytest.raises(ConfigError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    assert open_copies() == 0
    return str(caught.value)


@pytest.mark.parametrize("leaf", [LEAF, CHAINED], ids=["leaf", "chain"])
def test_a_pair_is_returned_as_it_lies_in_its_files(files, leaf):
    files.write(leaf)
    assert read_key_pair(files.cert, files.key) == KeyPair(leaf.chain, leaf.key)
    assert open_copies() == 0


def test_authorities_may_come_with_comments_in_any_language(files):
    text = "# Prüfstelle\n".encode() + AUTHORITY.pem + b"\n# two\n" + Authority().pem
    files.client_ca.write_bytes(text)
    assert read_authorities(files.client_ca) == text


def test_a_private_key_is_not_in_the_repr_of_its_pair():
    assert "PRIVATE" not in repr(KeyPair(LEAF.chain, LEAF.key))


def test_a_key_pair_reaches_openssl_without_touching_a_disk(files, monkeypatch):
    paths = []
    load = ssl.SSLContext.load_cert_chain

    def note(context, *arguments, **options):
        paths.extend(arguments)
        return load(context, *arguments, **options)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", note)
    read_key_pair(files.cert, files.key)
    assert [path.startswith("/proc/self/fd/") for path in paths] == [True, True]


# ---- what is wrong with a file -------------------------------------------------------------------------------------


def test_a_missing_file_and_a_folder_are_named(files, tmp_path):
    for path, problem in ((tmp_path / "gone", "No such file or directory"), (tmp_path, "Is a directory")):
        line = complaint(read_key_pair, path, files.key)
        assert line == f"{path}: {problem}; name a PEM file that the server's user may read"
    assert "embedded null" in complaint(read_pem, Path("a\0b"))


def test_a_file_that_is_no_pem_file_by_its_length_is_not_read_to_its_end():
    assert complaint(read_pem, Path("/dev/zero")) == (
        f"/dev/zero: longer than {PEM_BYTES_MAX} bytes, expected a PEM file of certificates or a key"
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "holds nothing in PEM"),
        (b"\x30\x82\x01\x00", "holds nothing in PEM"),
        (LEAF.key, "holds EC PRIVATE KEY"),
        (LEAF.chain[:-40], "holds CERTIFICATE that is damaged or cut short"),
        (LEAF.chain.replace(b"MII", b"XXX"), "holds CERTIFICATE that is damaged or cut short"),
        (LEAF.chain + CHAINED.chain[:-40], "holds CERTIFICATE that is damaged or cut short"),
    ],
    ids=["empty", "der", "key", "cut", "damaged", "second_cut"],
)
def test_certificates_that_cannot_be_read_are_described(files, content, found):
    files.cert.write_bytes(content)
    expected = f"{files.cert}: {found}, expected one or more CERTIFICATEs in PEM"
    assert complaint(read_key_pair, files.cert, files.key) == expected
    assert complaint(read_authorities, files.cert) == expected


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "holds nothing in PEM"),
        (LEAF.chain, "holds CERTIFICATE"),
        (LEAF.key[:-40], "holds EC PRIVATE KEY that is damaged or cut short"),
    ],
    ids=["empty", "certificate", "cut"],
)
def test_a_key_that_cannot_be_read_is_described(files, content, found):
    files.key.write_bytes(content)
    assert complaint(read_key_pair, files.cert, files.key) == f"{files.key}: {found}, expected one PRIVATE KEY in PEM"


def test_the_key_of_another_certificate_is_refused_with_both_names(files):
    files.key.write_bytes(AUTHORITY.issue().key)
    line = complaint(read_key_pair, files.cert, files.key)
    assert line.startswith(
        f"{files.key}: not the private key of the certificate in {files.cert}; expected the two that"
    )


def test_a_chain_in_the_wrong_order_is_a_mismatch(files):
    first, end, rest = CHAINED.chain.partition(b"-----END CERTIFICATE-----\n")
    files.write(CHAINED)
    files.cert.write_bytes(rest + first + end)
    assert "the server's own certificate first in its file" in complaint(read_key_pair, files.cert, files.key)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_locked_key_is_refused_and_nobody_is_asked_for_its_passphrase(files, form):
    key = load_pem_private_key(LEAF.key, None)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(b"secret")))
    line = complaint(read_key_pair, files.cert, files.key)
    assert line == (
        f"{files.key}: the private key is locked with a passphrase, expected one without: "
        f"openssl pkey -in {files.key} -out NEW"
    )


def test_a_certificate_that_openssl_finds_too_weak_is_refused_in_its_words(files):
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak")]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    files.cert.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert complaint(read_key_pair, files.cert, files.key) == (
        f"{files.cert}: cannot be used: ee key too small; have another one issued"
    )


def test_every_cut_of_a_pair_is_refused(files):
    """A file that is being written is cut somewhere; no cut of a lone certificate or key passes for a whole one."""
    for path, whole in ((files.cert, LEAF.chain), (files.key, LEAF.key)):
        for cut in range(len(whole) - 1):  # the newline at the end does not matter
            path.write_bytes(whole[:cut])
            with pytest.raises(ConfigError, match=f"^{path}: "):
                read_key_pair(files.cert, files.key)
        path.write_bytes(whole)


# ---- the machine's own CAs -----------------------------------------------------------------------------------------


def test_the_machines_authorities_are_those_of_openssl(monkeypatch, files):
    monkeypatch.setenv("SSL_CERT_FILE", str(files.client_ca))
    assert read_system_authorities() == AUTHORITY.pem


def test_a_folder_of_authorities_is_read_by_the_names_that_openssl_gives(monkeypatch, tmp_path):
    other = Authority()
    (tmp_path / "1234abcd.0").write_bytes(AUTHORITY.pem)
    (tmp_path / "5678abcd.0").write_bytes(other.pem)
    (tmp_path / "README").write_text("not a certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert read_system_authorities() == AUTHORITY.pem + b"\n" + other.pem


def test_a_machine_without_authorities_is_told_of_the_option(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "gone"))
    assert "name the PEM file of the server's CA with --tls-ca" in complaint(read_system_authorities)


# ---- who may read a private key ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o777])
def test_a_key_that_everybody_may_read_is_described(files, mode):
    files.key.chmod(mode)
    link = files.key.with_name("link.key")
    link.symlink_to(files.key)
    for path in (files.key, link):
        assert describe_exposure(path) == (
            f"{path}: every user of this machine may read this private key (mode {mode:04o}); chmod 600 it"
        )


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
def test_a_key_of_its_owner_and_group_is_left_alone(files, mode):
    files.key.chmod(mode)
    assert describe_exposure(files.key) == ""
    assert describe_exposure(files.key.with_name("gone")) == ""
