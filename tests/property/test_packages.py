"""Laws of packages: what is written is read, and no package that somebody made up does more than be refused."""

import copy
import json

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from serving.errors import PackageError
from serving.package import Contents, Waiver, read, verify, write
from serving.package.manifest import canonical_json, parse_config, parse_index, parse_manifest
from serving.package.parts import Descriptor, digest_of
from serving.package.signing import read_signatures
from serving.types import DATATYPES, Signature, TensorSpec
from tests.support.packages import blob_path, contents, manifest_of

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
SPECS = st.lists(
    st.builds(
        TensorSpec,
        NAMES,
        st.sampled_from(sorted(DATATYPES.values(), key=lambda item: item.wire_name)),
        st.lists(st.integers(-1, 2**40), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda spec: spec.name,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=3)
CONTENTS = st.builds(
    lambda **values: Contents(name="m", **values),
    model=st.binary(max_size=50),
    signature=st.builds(Signature, SPECS.map(tuple), SPECS.map(tuple), st.booleans()),
    profile=st.none() | st.binary(max_size=50),
    parity=st.none() | OBJECTS,
    lineage=st.none() | OBJECTS,
    passes=st.lists(NAMES, max_size=3).map(tuple),
    waivers=st.lists(st.builds(Waiver, NAMES, NAMES), max_size=3).map(tuple),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(given_contents=CONTENTS)
def test_what_is_written_is_read_and_has_one_digest(tmp_path_factory, given_contents):
    folder = tmp_path_factory.mktemp("package")
    digest = write(given_contents, folder / "a")
    assert write(given_contents, folder / "b.tar") == digest
    for package in (read(folder / "a"), verify(folder / "b.tar")):
        assert package.digest == digest
        for part in ("signature", "passes", "waivers", "model", "profile", "parity", "lineage"):
            assert getattr(package, part) == getattr(given_contents, part)


def paths_in(value, path=()):
    """Every place in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths_in(child, (*path, key))


def mutated(value, path, replacement):
    """The value with another one in one place, or nothing there at all when the replacement is None."""
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if replacement is None:
        del holder[path[-1]]
    else:
        holder[path[-1]] = replacement
    return value


MANIFESTS = {}


def originals(tmp_path_factory):
    """The JSON that a package consists of, with what parses each."""
    if not MANIFESTS:
        folder = tmp_path_factory.mktemp("original") / "p"
        write(contents(weights={"data/w": b"1"}), folder)
        manifest = manifest_of(folder)
        config = json.loads(blob_path(folder, manifest["config"]["digest"]).read_text())
        index = json.loads((folder / "index.json").read_text())
        MANIFESTS.update(manifest=(manifest, parse_manifest), config=(config, parse_config), index=(index, parse_index))
    return MANIFESTS


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(["manifest", "config", "index"]), data=st.data())
def test_a_changed_manifest_is_parsed_or_refused_and_nothing_else(tmp_path_factory, kind, data):
    value, parse = originals(tmp_path_factory)[kind]
    places = list(paths_in(value))[1:]
    place = data.draw(st.sampled_from(places))
    replacement = data.draw(JSON | st.sampled_from([[[]], {}, "\ud800", 2**70, -1, True, "sha256:" + "0" * 64]))
    changed = mutated(value, place, replacement)
    try:
        parse(json.dumps(changed).encode())
    except PackageError as error:
        assert str(error).isprintable()  # noqa: PT017 - most of them are refused


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(signature=OBJECTS | st.binary(max_size=30), manifest=OBJECTS | st.just({"layers": [{}]}))
def test_a_made_up_signature_is_refused(tmp_path_factory, signature, manifest):
    folder = tmp_path_factory.mktemp("signed") / "p"
    write(contents(), folder)
    index = json.loads((folder / "index.json").read_text())
    package = index["manifests"][0]
    blob = signature if isinstance(signature, bytes) else canonical_json(signature)
    assume(blob)
    layer = {"mediaType": "application/vnd.penstock.signature.v1+json", "digest": digest_of(blob), "size": len(blob)}
    subject = {"mediaType": package["mediaType"], "digest": package["digest"], "size": package["size"]}
    kind = "application/vnd.penstock.signature.v1+json"
    data = canonical_json({"artifactType": kind, "layers": [layer], "subject": subject, **manifest})
    for stored in (blob, data):
        blob_path(folder, digest_of(stored)).write_bytes(stored)
    entry = Descriptor(package["mediaType"], digest_of(data), len(data))
    index["manifests"].append(
        {"mediaType": entry.media_type, "digest": entry.digest, "size": entry.bytes_count, "artifactType": kind}
    )
    (folder / "index.json").write_text(json.dumps(index))
    try:
        read_signatures(read(folder))
    except PackageError as error:
        assert str(error).isprintable()  # noqa: PT017 - all but those that look like signatures


@given(st.binary(max_size=200))
def test_bytes_that_are_no_archive_of_arrays_are_refused(data):
    from serving.package import read_npz

    try:
        arrays = read_npz(data, bytes_max=1000)
    except PackageError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
