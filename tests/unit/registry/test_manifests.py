import json

import pytest

from serving.errors import RegistryError
from serving.package.parts import Descriptor
from serving.registry.manifests import blobs_of, manifest_facts, manifests_of

DIGEST = "sha256:" + "1" * 64
BLOB = {"mediaType": "a", "digest": DIGEST, "size": 7}


def test_a_push_names_its_manifests_and_reads_them_back():
    (read,) = manifests_of({"manifests": manifest_facts([Descriptor("x", DIGEST, 7)])})
    assert (read.digest, read.bytes_count) == (DIGEST, 7)


@pytest.mark.parametrize(
    "manifests", [None, [], [7], [{"digest": DIGEST}], [{"digest": "x", "bytes": 7}],
                  [{"digest": DIGEST, "bytes": 1 << 40}], [{"digest": DIGEST, "bytes": 1}] * 100],
)  # fmt: skip
def test_a_push_without_usable_manifests_is_refused(manifests):
    with pytest.raises(RegistryError):
        manifests_of({"manifests": manifests})


def test_the_blobs_of_a_manifest_are_its_config_and_its_layers():
    manifest = json.dumps({"config": BLOB, "layers": [BLOB, BLOB]}).encode()
    assert [blob.bytes_count for blob in blobs_of(manifest)] == [7, 7, 7]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"layers": [], "config": 7}', json.dumps({"config": BLOB, "layers": [BLOB] * 5000}).encode(),
     json.dumps({"config": {**BLOB, "size": -1}, "layers": []}).encode()],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(RegistryError):
        blobs_of(content)
