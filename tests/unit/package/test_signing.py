import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from serving.errors import ConfigError, PackageError
from serving.package import export, read, verify, write
from serving.package.signing import read_signatures, signer, trusted_key, trusted_keys
from tests.support.packages import blob_path, contents, write_key_pair


@pytest.fixture
def keys(tmp_path):
    """A private key, and the folder that holds its public one."""
    private, public = write_key_pair(tmp_path)
    return private, public.parent


def test_a_signed_package_is_accepted_and_keeps_its_digest(tmp_path, keys):
    private, folder = keys
    plain = write(contents(), tmp_path / "plain")
    signed = write(contents(), tmp_path / "signed.tar", sign=signer(private))
    assert signed == plain
    package = verify(tmp_path / "signed.tar")
    assert trusted_keys(folder).check(package) == read_signatures(package)[0].key_id


def test_signing_twice_gives_the_same_bytes(tmp_path, keys):
    private, _ = keys
    for name in ("a.tar", "b.tar"):
        write(contents(), tmp_path / name, sign=signer(private))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_an_unsigned_package_is_refused(tmp_path, keys):
    write(contents(), tmp_path / "p")
    with pytest.raises(PackageError, match=r"the package is not signed, a key in .*keys must have signed it"):
        trusted_keys(keys[1]).check(read(tmp_path / "p"))


def test_a_package_signed_by_a_stranger_is_refused(tmp_path, keys):
    (tmp_path / "other").mkdir()
    stranger, _ = write_key_pair(tmp_path / "other")
    write(contents(), tmp_path / "p", sign=signer(stranger))
    with pytest.raises(PackageError, match=r"the package is signed by [0-9a-f]{16}, which .*keys does not hold"):
        trusted_keys(keys[1]).check(read(tmp_path / "p"))


def test_several_keys_may_sign_and_a_copy_keeps_their_signatures(tmp_path, keys):
    private, folder = keys
    (tmp_path / "other").mkdir()
    second, second_public = write_key_pair(tmp_path / "other")
    write(contents(), tmp_path / "p", sign=signer(second))
    export(read(tmp_path / "p"), tmp_path / "q.tar", sign=signer(private))
    package = verify(tmp_path / "q.tar")
    assert len(read_signatures(package)) == 2
    trusted_keys(folder).check(package)
    trusted_key(second_public).check(package)


def test_signing_again_with_the_same_key_adds_nothing(tmp_path, keys):
    write(contents(), tmp_path / "p", sign=signer(keys[0]))
    export(read(tmp_path / "p"), tmp_path / "q", sign=signer(keys[0]))
    assert len(read_signatures(read(tmp_path / "q"))) == 1


def test_the_signature_of_another_package_is_refused(tmp_path, keys):
    """Moved beside another package, with digests that fit, it is still about the first one."""
    private, folder = keys
    write(contents(), tmp_path / "good", sign=signer(private))
    write(contents(name="evil"), tmp_path / "evil", sign=signer(private))
    write(contents(name="evil"), tmp_path / "plain")
    good = json.loads((tmp_path / "good/index.json").read_text())["manifests"][1]
    for blob in (tmp_path / "good/blobs/sha256").iterdir():
        (tmp_path / "evil/blobs/sha256" / blob.name).write_bytes(blob.read_bytes())
    index = json.loads((tmp_path / "evil/index.json").read_text())
    index["manifests"][1] = good
    (tmp_path / "evil/index.json").write_text(json.dumps(index))
    with pytest.raises(PackageError, match="a signature's manifest is about sha256:"):
        trusted_keys(folder).check(read(tmp_path / "evil"))


def forge(package, change):
    """Change the signature itself, and every digest on the way to it."""
    index = json.loads((package / "index.json").read_text())
    entry = index["manifests"][1]
    manifest = json.loads(blob_path(package, entry["digest"]).read_text())
    layer = manifest["layers"][0]
    value = json.loads(blob_path(package, layer["digest"]).read_text())
    change(value)
    layer.update(put(package, value))
    entry.update(put(package, manifest))
    (package / "index.json").write_text(json.dumps(index))


def put(package, value):
    from tests.support.packages import put_blob

    return put_blob(package, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(signature="A" * 86 + "=="), "the signature of key [0-9a-f]{16} is not valid for"),
        (lambda value: value.update(signature="AAAA"), "is not valid for"),
        (lambda value: value.update(signature="?"), "is not valid base64"),
        (lambda value: value.update(algorithm="none"), "is not the ed25519 signature of a key"),
        (lambda value: value.pop("key"), "is not the ed25519 signature of a key"),
    ],
    ids=["zeros", "short", "no base64", "algorithm", "no key"],
)
def test_a_forged_signature_is_refused(tmp_path, keys, change, message):
    write(contents(), tmp_path / "p", sign=signer(keys[0]))
    forge(tmp_path / "p", change)
    with pytest.raises(PackageError, match=message):
        trusted_keys(keys[1]).check(read(tmp_path / "p"))


def test_a_damaged_signature_is_noticed(tmp_path, keys):
    write(contents(), tmp_path / "p", sign=signer(keys[0]))
    entry = json.loads((tmp_path / "p/index.json").read_text())["manifests"][1]
    path = blob_path(tmp_path / "p", entry["digest"])
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    with pytest.raises(PackageError, match="is damaged"):
        verify(tmp_path / "p")


def rsa_key():
    return rsa.generate_private_key(65537, 2048)


def test_a_key_of_another_kind_is_refused(tmp_path):
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = rsa_key()
    (tmp_path / "rsa.key").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    (tmp_path / "rsa.pem").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ConfigError, match="expected an ed25519 key"):
        signer(tmp_path / "rsa.key")
    with pytest.raises(ConfigError, match="expected an ed25519 key"):
        trusted_keys(tmp_path)


def test_a_key_with_a_passphrase_is_refused(tmp_path, keys):
    key = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    pkcs8 = serialization.PrivateFormat.PKCS8
    keys[0].write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, encryption))
    with pytest.raises(ConfigError, match="is no private key in PEM without a passphrase"):
        signer(keys[0])


@pytest.mark.parametrize("data", [b"", b"noise", b"x" * 100_000], ids=["empty", "noise", "long"])
def test_a_file_that_is_no_key_is_refused(tmp_path, data):
    (tmp_path / "a.pem").write_bytes(data)
    for read_it in (signer, trusted_key):
        with pytest.raises(ConfigError, match=r"a.pem (is no p|has more than)"):
            read_it(tmp_path / "a.pem")


def test_a_folder_without_keys_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds 0 keys"):
        trusted_keys(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        trusted_keys(tmp_path / "gone")
