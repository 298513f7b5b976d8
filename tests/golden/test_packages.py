"""A package of every format that was released is read for ever, and today's writer still writes the newest one.

`format-1.tar` is `tests.support.packages.contents()`, written and signed by the first version that had packages, and
`format-1.pem` the public key. Never make it anew: a reader or writer that breaks it breaks every package there is.
"""

from pathlib import Path

from serving.package import verify, write
from serving.package.folder import Folder, unpack
from serving.package.signing import trusted_key
from tests.support.packages import contents

FOLDER = Path(__file__).parent / "packages"
DIGEST = "sha256:1a82f8633eae74327635eecaee3926c9815bf8ea85d8a684ab6dda4eaf366110"


def test_a_package_of_format_1_is_read_and_its_signature_holds():
    package = verify(FOLDER / "format-1.tar")
    assert package.digest == DIGEST
    trusted_key(FOLDER / "format-1.pem").check(package)
    expected = contents()
    for part in ("name", "signature", "columns", "labels", "passes", "waivers", "parity", "lineage", "licence"):
        assert getattr(package, part) == getattr(expected, part), part


def test_the_same_contents_still_give_the_same_digest(tmp_path):
    package = verify(FOLDER / "format-1.tar")
    unpack(package, tmp_path / "plain")
    assert write(Folder.at(tmp_path / "plain").contents(package.signature), tmp_path / "again") == DIGEST
