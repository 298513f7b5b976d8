"""The contract of the store, on a disk and on a file system that is none."""

import itertools
import os

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from serving.errors import RegistryAway, RegistryDamaged, RegistryError
from serving.package.parts import Descriptor, digest_of
from serving.registry.store import BlobStore, StoredFiles

CONTENT = b"weights" * 1000
BLOB = Descriptor("", digest_of(CONTENT), len(CONTENT))
_numbers = itertools.count()


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    if request.param == "disk":
        return BlobStore.at(str(tmp_path / "store"))
    return BlobStore.at(f"memory://store-{next(_numbers)}")


def overwrite(store, blob, content):
    store._files.pipe_file(store._path(blob.digest), content)


def test_a_blob_comes_back_as_it_went_in(store):
    store.put(BLOB, [CONTENT[:3], CONTENT[3:]])
    assert b"".join(store.chunks(BLOB)) == CONTENT
    assert store.read(BLOB) == CONTENT
    assert store.digests() == {BLOB.digest}
    assert store.problem(BLOB) is None


def test_an_empty_store_has_nothing(store):
    assert store.digests() == set()
    assert store.read_index() == []
    assert store.problem(BLOB) == "it is missing"
    with pytest.raises(RegistryDamaged, match="is missing"):
        store.read(BLOB)


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", b"W" + CONTENT[1:]])
def test_what_is_not_the_blob_is_neither_stored_nor_left_behind(store, content):
    with pytest.raises(RegistryDamaged, match=BLOB.digest):
        store.put(BLOB, [content])
    assert store.problem(BLOB) is not None
    if store._is_local:
        assert store.digests() == set()
        assert store._files.ls(store._partial, detail=False) == []


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", b"W" + CONTENT[1:]])
def test_a_blob_that_was_tampered_with_is_not_given_out_and_a_push_mends_it(store, content):
    store.put(BLOB, [CONTENT])
    overwrite(store, BLOB, content)
    assert store.problem(BLOB)
    with pytest.raises(RegistryDamaged, match=BLOB.digest):
        store.read(BLOB)
    store.put(BLOB, [CONTENT])
    assert store.read(BLOB) == CONTENT


def test_what_is_there_is_not_asked_for_again(store):
    store.put(BLOB, [CONTENT])
    store.put(BLOB, (pytest.fail("the source was read") for _ in range(1)))


def test_the_index_reads_back_and_a_broken_one_is_empty(store):
    store.write_index([{"digest": BLOB.digest}])
    assert store.read_index() == [{"digest": BLOB.digest}]
    store._files.pipe_file(f"{store.root}/index.json", b"{" * 100)
    assert store.read_index() == []


def test_no_digest_leads_out_of_the_store(store):
    for digest in ("sha256:../../etc/passwd", "../x", "sha256:" + "A" * 64):
        with pytest.raises(RegistryError):
            store.read(Descriptor("", digest, 1))
        with pytest.raises(RegistryError):
            StoredFiles(store).open(f"blobs/sha256/{digest}")


def test_a_layout_says_that_it_is_one(tmp_path):
    BlobStore.at(str(tmp_path)).put(BLOB, [CONTENT])
    assert (tmp_path / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'
    assert (tmp_path / "blobs" / "sha256" / BLOB.digest[7:]).read_bytes() == CONTENT


def test_what_a_dead_writer_left_is_removed_after_a_day(tmp_path):
    store = BlobStore.at(str(tmp_path))
    store.put(BLOB, [CONTENT])
    old, young = tmp_path / "partial" / "old", tmp_path / "partial" / "young"
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    store.put(Descriptor("", digest_of(b"x"), 1), [b"x"])
    assert (old.exists(), young.exists()) == (False, True)


def test_an_error_of_a_remote_store_is_one_of_ours():
    class Broken(MemoryFileSystem):
        def info(self, path, **_):
            raise RuntimeError("503 slow down")

    with pytest.raises(RegistryAway, match="RuntimeError: 503 slow down"):
        BlobStore(Broken(), "/x").problem(BLOB)


def test_a_scheme_that_nothing_opens_is_named():
    with pytest.raises(RegistryError, match=r"nope://x cannot be opened"):
        BlobStore.at("nope://x")
