"""What a package's reader refuses, with the reason that a person is told."""

import io
import json
import os
import re
import socket
import tarfile

import pytest

from serving.errors import PackageError
from serving.package import read, verify, write
from serving.package import storage as storage_module
from tests.support.packages import blob_path, contents, manifest_of, put_blob, rewrite, rewrite_config, tar_of


@pytest.fixture
def package(tmp_path):
    write(contents(weights={"w": b"weights"}), tmp_path / "p")
    return tmp_path / "p"


def refusal(path):
    with pytest.raises(PackageError) as caught:
        verify(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def layer(package, title):
    return next(layer for layer in manifest_of(package)["layers"] if layer["annotations"].values() == {title} or
                title in layer["annotations"].values())  # fmt: skip


# ---- damage --------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_noticed(package, tmp_path):
    tar = tar_of(package, tmp_path / "p.tar")
    for path in sorted(file for file in package.rglob("*") if file.is_file()):
        whole = path.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            refusal(package)
        path.write_bytes(whole)
    assert verify(package).digest == verify(tar).digest


@pytest.mark.parametrize("title", ["model.onnx", "w", "profile.npz", "parity.json"])
def test_a_missing_blob_is_named(package, title):
    blob = blob_path(package, layer(package, title)["digest"])
    blob.unlink()
    assert refusal(package) == f"{package}: blobs/sha256/{blob.name} is missing"


@pytest.mark.parametrize("change", [b"more", b""], ids=["longer", "empty"])
def test_a_blob_of_another_length_is_refused_before_it_is_read(package, change):
    blob_path(package, layer(package, "w")["digest"]).write_bytes(change)
    assert f"has {len(change)} bytes, its descriptor says 7" in refusal(package)


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_a_folder_without_its_first_files_is_no_package(package, name):
    (package / name).unlink()
    assert refusal(package) == f"{package}: {name} is missing"


def test_nothing_at_all_is_no_package(tmp_path):
    assert refusal(tmp_path / "gone") == f"{tmp_path / 'gone'}: no such file"


def test_what_would_only_be_waited_for_is_no_package(tmp_path):
    os.mkfifo(tmp_path / "fifo.tar")
    assert refusal(tmp_path / "fifo.tar") == f"{tmp_path / 'fifo.tar'}: neither a folder nor a file, so no package"


# ---- links and other kinds of files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["oci-layout", "index.json", "blobs", "blobs/sha256", "a blob"])
def test_a_symbolic_link_is_not_followed(package, tmp_path, name):
    path = blob_path(package, layer(package, "w")["digest"]) if name == "a blob" else package / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "cannot be opened as a plain file: " in refusal(package)


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(package, kind, tmp_path, monkeypatch):
    path = package / "oci-layout"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        monkeypatch.chdir(package)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("oci-layout")
    assert "regular file" in (message := refusal(package)) or "cannot be opened as a plain file" in message


# ---- what the manifest says ----------------------------------------------------------------------------------------


def change_layer(**fields):
    return lambda manifest: manifest["layers"][1].update(fields)


def titled(title):
    return change_layer(annotations={"org.opencontainers.image.title": title})


MANIFESTS = {
    "newer format": (
        lambda manifest: manifest["annotations"].update({"dev.penstock.format": "2"}),
        "says package format 2, this version reads up to 1; update Penstock to use it",
    ),
    "format before the first": (
        lambda manifest: manifest["annotations"].update({"dev.penstock.format": "0"}),
        "says package format 0, which never was released; pack the model again",
    ),
    "no format": (lambda manifest: manifest["annotations"].pop("dev.penstock.format"), "this is no package"),
    "format of digits": (
        lambda manifest: manifest["annotations"].update({"dev.penstock.format": "9" * 10}),
        "expected a number",
    ),
    "unknown part": (change_layer(mediaType="application/vnd.penstock.sidecar.v1"), "which this version does not know"),
    "path escape": (titled("../../etc/passwd"), "expected a visible file beside the graph"),
    "absolute path": (titled("/etc/passwd"), "expected a visible file beside the graph"),
    "doubled name": (titled("model.onnx"), "expected a visible file beside the graph"),
    "doubled weights": (
        lambda manifest: manifest["layers"].append(manifest["layers"][1]),
        "the manifest names 'w' twice, expected each part once",
    ),
    "renamed model": (
        lambda manifest: manifest["layers"][0].update(annotations={"org.opencontainers.image.title": "m.onnx"}),
        "is called 'm.onnx', expected 'model.onnx'",
    ),
    "no model": (lambda manifest: manifest["layers"].pop(0), "names no model.onnx"),
    "short digest": (change_layer(digest="sha256:abc"), "expected sha256: and 64 hex digits"),
    "digest with a path": (change_layer(digest="sha256:../" + "0" * 61), "expected sha256: and 64 hex digits"),
    "negative length": (change_layer(size=-1), "says a blob has -1 bytes"),
    "huge length": (change_layer(size=2**60), "says a blob has 1152921504606846976 bytes"),
    "length true": (change_layer(size=True), "says a blob has True bytes"),
    "other length": (change_layer(size=8), "has 7 bytes, its descriptor says 8"),
    "no list": (lambda manifest: manifest.update(layers={}), "expected a list"),
    "no text": (change_layer(mediaType=3), "expected text"),
    "a list of lists": (lambda manifest: manifest.update(layers=[[]]), "in place of a descriptor"),
    "other manifest": (lambda manifest: manifest.update(mediaType="application/x"), "the manifest is of type"),
    "other config": (lambda manifest: manifest.update(config=manifest["layers"][1]), "the manifest's config is a"),
    "other name": (
        lambda manifest: manifest["annotations"].update({"org.opencontainers.image.title": "b"}),
        "the package contradicts itself",
    ),
    "hidden waiver": (
        lambda manifest: manifest["annotations"].pop("dev.penstock.waived"),
        "the package contradicts itself",
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_cannot_be_is_refused(package, case):
    change, message = MANIFESTS[case]
    rewrite(package, change)
    assert message in refusal(package)


def spec(config):
    return config["signature"]["inputs"][0]


CONFIGS = {
    "newer format": (lambda config: config.update(format=2), "update Penstock to use it"),
    "hidden name": (lambda config: config.update(name=".a"), "expected a visible folder's name"),
    "name with a slash": (lambda config: config.update(name="a/b"), "expected a visible folder's name"),
    "unknown datatype": (lambda config: spec(config).update(datatype="FP8"), "expected one of BOOL, "),
    "shape of text": (lambda config: spec(config).update(shape=["4"]), "no list of whole numbers"),
    "shape below -1": (lambda config: spec(config).update(shape=[-2]), "cannot be a tensor's"),
    "no outputs": (lambda config: config["signature"].update(outputs=[]), "has no outputs"),
    "doubled input": (lambda config: config["signature"]["inputs"].append(spec(config)), "names an input twice"),
    "too few columns": (lambda config: spec(config).update(columns=["a"]), "its last dimension is 4"),
    "doubled column": (lambda config: spec(config).update(columns=["a", "a", "b", "c"]), "name one twice"),
    "column of a number": (lambda config: spec(config).update(columns=[1]), "expected text"),
    "batchable of text": (lambda config: config["signature"].update(batchable="yes"), "expected true or false"),
    "waiver of text": (lambda config: config.update(waivers=["parity"]), "in place of a waiver"),
    "no signature": (lambda config: config.pop("signature"), "expected an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_a_package_json_that_cannot_be_is_refused(package, case):
    change, message = CONFIGS[case]
    rewrite_config(package, change)
    assert message in refusal(package)


INDEXES = {
    "huge": (b" " * (1 << 20) + b"{}", "expected at most 1048576"),
    "no JSON": (b"{", "is not valid JSON"),
    "no UTF-8": (b"\xff\xff", "is not valid JSON"),
    "deep": (b"[" * 100_000, "is not valid JSON"),
    "too deep": (b'{"a":' * 70 + b"1" + b"}" * 70, "it is nested more than 64 levels deep"),
    "long number": (b"1" * 100_000, "is not valid JSON"),
    "doubled key": (b'{"manifests": [], "manifests": []}', "names a key twice"),
    "NaN": (b'{"manifests": NaN}', "is no number of JSON"),
    "a list": (b"[]", "expected an object"),
    "no package": (b'{"manifests": []}', "names 0 packages, expected one"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_cannot_be_is_refused(package, case):
    data, message = INDEXES[case]
    (package / "index.json").write_bytes(data)
    assert message in refusal(package)


def change_index(package, change):
    index = json.loads((package / "index.json").read_text())
    change(index["manifests"])
    (package / "index.json").write_text(json.dumps(index))


def test_two_packages_in_one_layout_are_refused(package):
    change_index(package, lambda manifests: manifests.append(manifests[0]))
    assert "names 2 packages, expected one" in refusal(package)


def test_a_layout_of_something_else_is_no_package(package):
    change_index(package, lambda manifests: manifests[0].pop("artifactType"))
    assert "this is no package of Penstock's" in refusal(package)


@pytest.fixture
def with_files(tmp_path):
    write(contents(files={"labels.txt": b"a\nb\n"}), tmp_path / "with files")
    return tmp_path / "with files"


FILES = {
    "a path that escapes": (titled("../labels.txt"), "a file is called '../labels.txt', expected a visible file"),
    "an absolute path": (titled("/etc/passwd"), "a file is called '/etc/passwd'"),
    "a deep path": (titled("a/b/c"), "a file is called 'a/b/c'"),
    "a hidden file": (titled(".labels"), "a file is called '.labels'"),
    "the graph's name": (titled("model.onnx"), "a file is called 'model.onnx'"),
    "another name": (titled("others.txt"), "the package contradicts itself"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_of_a_pipeline_that_cannot_be_is_refused(with_files, case):
    change, message = FILES[case]
    rewrite(with_files, change)
    with pytest.raises(PackageError, match=re.escape(message)):
        read(with_files)


@pytest.mark.parametrize("files", [["labels.txt", "more.txt"], [], ["../labels.txt"], "labels.txt", [3], ["a"] * 257])
def test_a_package_json_with_other_files_than_the_manifest_is_refused(with_files, files):
    rewrite_config(with_files, lambda config: config.update(files=files))
    with pytest.raises(PackageError):
        read(with_files)


def test_a_file_of_a_pipeline_beyond_its_bound_is_refused_before_it_is_read(with_files):
    rewrite(with_files, change_layer(size=(64 << 20) + 1))
    package = read(with_files)
    with pytest.raises(PackageError, match=r"'labels\.txt' has 67108865 bytes, expected at most 67108864"):
        _ = package.files


def test_a_huge_manifest_is_refused_before_it_is_read(package):
    change_index(package, lambda manifests: manifests[0].update(put_blob(package, b" " * (5 << 20))))
    assert "says a blob has 5242880 bytes, expected 0 to 4194304" in refusal(package)


def test_a_part_of_text_beyond_its_bound_is_refused_before_it_is_read(package, monkeypatch):
    monkeypatch.setattr("serving.package.reading.JSON_BYTES_MAX", 10)
    with pytest.raises(PackageError, match=r"package.json has \d+ bytes, expected at most 10"):
        read(package)


def test_the_layouts_version_is_checked(package):
    (package / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    assert "oci-layout says version '2.0.0', expected '1.0.0'" in refusal(package)


# ---- tar -----------------------------------------------------------------------------------------------------------


def member(name, *, kind=tarfile.REGTYPE, link="", data=b"x"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, io.BytesIO(data)


HEX = "0" * 64
MEMBERS = {
    "absolute": (member("/etc/passwd"), "is none of a package"),
    "upwards": (member("../up"), "is none of a package"),
    "upwards inside": (member("blobs/../../up"), "is none of a package"),
    "upwards in a digest": (member(f"blobs/sha256/../{HEX}"), "is none of a package"),
    "stranger": (member("model.onnx"), "is none of a package"),
    "folder": (member("other", kind=tarfile.DIRTYPE), "is no plain file"),
    "symbolic link": (member("index.json", kind=tarfile.SYMTYPE, link="/etc/passwd"), "is no plain file"),
    "hard link": (member(f"blobs/sha256/{HEX}", kind=tarfile.LNKTYPE, link="index.json"), "is no plain file"),
    "device": (member("oci-layout", kind=tarfile.CHRTYPE), "is no plain file"),
    "block device": (member("oci-layout", kind=tarfile.BLKTYPE), "is no plain file"),
    "fifo": (member("oci-layout", kind=tarfile.FIFOTYPE), "is no plain file"),
    "sparse": (member("oci-layout", kind=tarfile.GNUTYPE_SPARSE), "is no plain file"),
    "contiguous": (member("oci-layout", kind=tarfile.CONTTYPE), "is no plain file"),
    "unknown": (member("oci-layout", kind=b"Q"), "is no plain file"),
    "doubled": (member("index.json"), "member index.json comes twice"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_tar_with_a_member_that_no_package_has_is_refused(package, tmp_path, case):
    extra, message = MEMBERS[case]
    extra[1].seek(0)
    assert message in refusal(tar_of(package, tmp_path / "p.tar", extra=[extra]))


def test_a_tar_that_a_person_made_is_read(package, tmp_path):
    assert verify(tar_of(package, tmp_path / "p.tar")).digest == read(package).digest


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused(package, tmp_path, compression):
    tar = tar_of(package, tmp_path / "p.tar", mode=f"w:{compression}")
    assert "not a plain tar of a package (compressed ones are not taken)" in refusal(tar)


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    write(contents(), tmp_path / "whole.tar")
    whole, cut = (tmp_path / "whole.tar").read_bytes(), tmp_path / "cut.tar"
    end = len(whole.rstrip(b"\0"))
    for at in (0, 1, 511, 512, 513, 5000, end // 2, end - 100):
        cut.write_bytes(whole[:at])
        refusal(cut)


def test_a_tar_of_many_members_is_refused(package, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_module, "MEMBERS_MAX", 5)
    assert "the tar has more than 5 members" in refusal(tar_of(package, tmp_path / "p.tar"))


def test_a_tar_with_a_huge_extended_header_is_refused_before_it_is_read(package, tmp_path):
    tar = tmp_path / "p.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * (1 << 20)}) as archive:
        archive.add(package, ".")
    assert "an extended header of 1049088 bytes, expected at most 65536" in refusal(tar)


def test_a_negative_length_in_a_tar_is_refused(package, tmp_path):
    info, _ = member("oci-layout")
    info.size = -512
    tar = tmp_path / "p.tar"
    tar.write_bytes(info.tobuf(format=tarfile.GNU_FORMAT) + bytes(1024))
    refusal(tar)


def test_random_bytes_in_a_tar_never_give_anything_but_a_refusal_or_the_package(tmp_path):
    digest = write(contents(), tmp_path / "whole.tar")
    whole, mutant = bytearray((tmp_path / "whole.tar").read_bytes()), tmp_path / "mutant.tar"
    for at in range(0, len(whole), 97):
        mutant.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        try:
            assert verify(mutant).digest == digest  # padding and fields of a header that say nothing
        except PackageError as error:
            assert str(error).startswith(str(mutant))  # noqa: PT017 - most of them are refused
