import pytest

from serving.registry.disk import is_local


def mounts(tmp_path, *lines):
    file = tmp_path / "mountinfo"
    file.write_text("\n".join(f"1 0 8:1 / {point} rw - {kind} source rw" for point, kind in lines))
    return file


@pytest.mark.parametrize(
    ("kind", "expected"), [("ext4", True), ("tmpfs", True), ("nfs4", False), ("cifs", False), ("fuse.sshfs", False)]
)
def test_the_mount_that_a_folder_lies_in_decides(tmp_path, kind, expected):
    table = mounts(tmp_path, ("/", "xfs"), (str(tmp_path), kind))
    assert is_local(tmp_path / "registry", table) is expected


def test_a_mount_beside_does_not_count_and_a_later_one_hides_an_earlier(tmp_path):
    beside = mounts(tmp_path, ("/", "ext4"), (f"{tmp_path}/a", "nfs"))
    assert is_local(tmp_path / "ab", beside)
    hidden = mounts(tmp_path, ("/", "ext4"), (f"{tmp_path}/a", "ext4"), (f"{tmp_path}/a", "nfs"))
    assert not is_local(tmp_path / "a", hidden)


def test_spaces_in_a_mount_are_read(tmp_path):
    folder = tmp_path / "my disk"
    table = mounts(tmp_path, ("/", "nfs"), (str(folder).replace(" ", "\\040"), "ext4"))
    assert is_local(folder, table)


def test_what_cannot_be_told_counts_as_a_network(tmp_path):
    assert not is_local(tmp_path, tmp_path / "missing")
