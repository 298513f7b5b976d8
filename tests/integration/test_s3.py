"""A registry whose blobs lie in S3: a real client library, and moto's server in the place of Amazon's."""

import contextlib
import gc
import subprocess

import pytest

from serving import package
from serving.errors import RegistryAway, RegistryDamaged
from serving.package.parts import Descriptor, digest_of
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.registry.store import BlobStore
from serving.transport.client import Client
from tests.support.environments import environment
from tests.support.registries import OPEN, version, write_package
from tests.support.servers import server_thread

pytestmark = pytest.mark.slow

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[s3]'")
BUCKET = "models"
STORE = f"s3://{BUCKET}/registry"
PART_BYTES = 5 << 20  # what s3fs sends at a time at least
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def s3_server():
    try:
        python = environment("moto[server]>=5,<6")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"moto cannot be installed here: {error}")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([python, "-c", SERVER], **pipes) as started:
        try:
            yield started, f"http://127.0.0.1:{int(started.stdout.readline())}"
        finally:
            started.terminate()


@pytest.fixture(scope="module")
def s3_address():
    with s3_server() as (_, address):
        yield address


def point_at(address, monkeypatch):
    """Point at a server as a user of Amazon's tools does; returns the files."""
    for name, value in (("AWS_ENDPOINT_URL", address), ("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"),
                        ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    if not files.exists(BUCKET):
        files.mkdir(BUCKET)
    return files


@pytest.fixture
def files(s3_address, monkeypatch):
    found = point_at(s3_address, monkeypatch)
    with contextlib.suppress(FileNotFoundError):
        found.rm(f"{BUCKET}/registry", recursive=True)
    yield found
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def place(files, tmp_path):
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "registry.toml").write_text(f'store = "{STORE}"')
    with Registry.open(str(folder), create=True) as registry:
        for number in (1, 2):
            registry.push(write_package(tmp_path / f"package-{number}", number))
            registry.promote(version(number), "production", gate=OPEN)
    return folder


def blob_of(files, tmp_path):
    """Return the path and the digest of the graph of the second package."""
    graph = next(blob for blob in package.read(tmp_path / "package-2").blobs if blob.title == "model.onnx")
    return f"{BUCKET}/registry/blobs/sha256/{graph.digest[7:]}", graph.digest


def test_packages_come_back_from_a_bucket_and_all_is_intact(place, files, tmp_path):
    assert not (place / "store").exists()
    with Registry.open(str(place)) as registry:
        registry.pull(Alias("affine", "production"), tmp_path / "pulled")
        audit = registry.verify(head=registry.head())
        assert (audit.findings, audit.index_is_current, audit.unreferenced_blobs) == ((), True, 0)
    assert package.verify(tmp_path / "pulled").digest == package.read(tmp_path / "package-2").digest


@pytest.mark.parametrize(("content", "problem"), [(b"tampered", "it has 8 bytes"), (None, "it is missing")])
def test_a_blob_that_is_tampered_with_is_found_at_its_place_and_a_push_mends_it(
    place, files, tmp_path, content, problem
):
    with Registry.open(str(place)) as registry:
        assert registry.verify().findings == (), "what was listed before does not hide what happens later"
        path, digest = blob_of(files, tmp_path)
        files.rm(path) if content is None else files.pipe_file(path, content)
        (finding,) = registry.verify().findings
        assert str(finding).startswith(f"blob {digest}: {problem}")
        with pytest.raises(RegistryDamaged):
            registry.pull(version(2), tmp_path / "pulled")
        registry.push(tmp_path / "package-2")
        assert registry.verify().findings == ()


@pytest.mark.parametrize("length", [0, 1, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 1])
def test_a_blob_of_any_length_comes_back(files, length):
    content = bytes(range(256)) * (length // 256 + 1)
    content = content[:length]
    blob = Descriptor("", digest_of(content), length)
    store = BlobStore.at(f"{STORE}/lengths")
    store.put(blob, [content[: length // 2], content[length // 2 :]])
    assert store.read(blob) == content
    assert store.problem(blob) is None


@pytest.mark.parametrize("length", [7, 2 * PART_BYTES])
def test_an_upload_that_breaks_off_is_not_there(files, length):
    blob = Descriptor("", digest_of(b"x" * length), length)
    store = BlobStore.at(f"{STORE}/broken")
    with pytest.raises(RegistryDamaged):
        store.put(blob, [b"x" * (length - 1)])
    assert store.problem(blob) == "it is missing"
    assert store.digests() == set()
    gc.collect()
    assert files.list_multipart_uploads(BUCKET) == [], "nothing half done is left that somebody pays for"


def test_a_bucket_that_goes_away_is_one_error_and_a_server_goes_on(tmp_path, monkeypatch):
    with s3_server() as (process, address):
        point_at(address, monkeypatch)
        folder = tmp_path / "registry"
        folder.mkdir()
        (folder / "registry.toml").write_text(f'store = "{STORE}"')
        with Registry.open(str(folder), create=True) as registry:
            registry.push(write_package(tmp_path / "package-1", 1))
            registry.promote(version(1), "production", gate=OPEN)
        options = {"registry": str(folder), "registry_cache": str(tmp_path / "cache"), "registry_interval_s": 0.0,
                   "model": ("affine@production",)}  # fmt: skip
        with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
            assert client.metadata("affine").versions == ["1"]
            process.terminate()
            process.wait()
            with Registry.open(str(folder)) as registry:
                with pytest.raises(RegistryAway, match=f"store {BUCKET}/registry cannot be used"):
                    registry.pull(version(1), tmp_path / "pulled")
                assert registry.resolve(Alias("affine", "production")).sequence == 1
            server.complete(server.server._look_at_aliases(server.server._aliases))
            assert client.metadata("affine").versions == ["1"]
    s3fs.S3FileSystem.clear_instance_cache()
