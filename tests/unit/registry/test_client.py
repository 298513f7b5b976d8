import json

import pytest

from serving import package
from serving.errors import PackageError, RegistryAway, RegistryDamaged, RegistryError
from serving.package.signing import signer, trusted_keys
from serving.registry.client import Registry
from serving.registry.names import Alias, Version
from tests.support import registries
from tests.support.registries import OPEN, version, write_package

PRODUCTION = Alias("affine", "production")


@pytest.fixture
def registry(tmp_path):
    with Registry.open(str(tmp_path / "registry"), who="ada", create=True) as opened:
        yield opened


def test_a_pulled_package_is_the_pushed_one(registry, tmp_path):
    source = write_package(tmp_path / "source")
    result = registry.push(source)
    assert result.is_new
    assert str(result.pushed.version) == "affine/1"
    for name in ("folder", "file.tar"):
        assert registry.pull(version(1), tmp_path / name) == result.pushed
        assert package.verify(tmp_path / name).digest == package.read(source).digest == result.pushed.digest


def test_packages_of_a_model_are_numbered_in_the_order_of_pushes(registry, tmp_path):
    for number in (1, 2, 3):
        assert registry.push(write_package(tmp_path / f"{number}", number)).pushed.sequence == number
    assert registry.push(tmp_path / "2", "other").pushed.version == Version("other", 1)
    assert registries.sequences(registry) == [1, 2, 3]


def test_pushing_the_same_package_again_changes_nothing(registry, tmp_path):
    first = registry.push(write_package(tmp_path / "source"))
    head = registry.head()
    again = registry.push(tmp_path / "source")
    assert (again.is_new, again.pushed, again.record) == (False, first.pushed, first.record)
    assert registry.head() == head


def test_a_damaged_package_is_not_pushed(registry, tmp_path):
    source = write_package(tmp_path / "source")
    model = package.read(source).find(package.Part.MODEL)
    (source / "blobs" / "sha256" / model.digest[7:]).write_bytes(b"x" * model.bytes_count)
    with pytest.raises((PackageError, RegistryDamaged), match="digest"):
        registry.push(source)
    assert registry.packages() == []
    assert registry.history() == []


def test_signatures_travel_with_a_package(registry, tmp_path):
    private, _ = registries.packages.write_key_pair(tmp_path)
    package.write(registries.packages.contents(), tmp_path / "source", sign=signer(private))
    registry.push(tmp_path / "source")
    registry.pull(version(1), tmp_path / "target")
    assert trusted_keys(tmp_path / "keys").check(package.read(tmp_path / "target"))
    package.write(registries.packages.contents(), tmp_path / "bare")
    with pytest.raises(RegistryError, match="with other signatures"):
        registry.push(tmp_path / "bare")


def test_an_alias_moves_and_rolls_back(registry, tmp_path):
    for number in (1, 2):
        registry.push(write_package(tmp_path / f"{number}", number))
        record = registry.promote(version(number), "production", reason="better", gate=OPEN)
        assert registry.head() == record.digest
    assert registry.resolve(PRODUCTION).sequence == 2
    assert registry.rollback(PRODUCTION).facts["sequence"] == 1
    assert registry.resolve(PRODUCTION).sequence == 1
    assert registry.rollback(PRODUCTION, to=2, reason="it was not that").facts["sequence"] == 2
    assert [each.kind for each in registry.history("affine")][-2:] == ["rollback", "rollback"]


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda r: r.promote(version(7), "production", gate=OPEN), "'affine' has: 1"),
        (lambda r: r.promote(version(1), "../x", gate=OPEN), "cannot be an alias"),
        (lambda r: r.promote(version(1), "production", gate=OPEN), "already"),
        (lambda r: r.promote(version(1), "x", reason="two\nlines", gate=OPEN), "one line"),
        (lambda r: r.rollback(PRODUCTION), "no way back"),
        (lambda r: r.record("train", "../x", {"commit": "a"}), "cannot be a model"),
        (lambda r: r.record("train", "affine", {"commit": "a"}, version=version(9)), "'affine' has: 1"),
        (lambda r: r.resolve(Alias("affine", "none")), "aliases of 'affine': production"),
    ],
)
def test_what_is_refused_leaves_no_record(registry, tmp_path, verb, message):
    registry.push(write_package(tmp_path / "1"))
    registry.promote(version(1), "production", gate=OPEN)
    head = registry.head()
    with pytest.raises(RegistryError, match=message):
        verb(registry)
    assert registry.head() == head


def test_a_name_that_is_no_word_is_refused_before_anything_is_stored(registry, tmp_path):
    source = write_package(tmp_path / "source", name="my model")
    with pytest.raises(RegistryError, match="cannot be a model's name"):
        registry.push(source)
    assert registry.verify().unreferenced_blobs == 0
    assert registry.push(source, "mine").pushed.version == Version("mine", 1)


def test_diff_tells_what_two_packages_say_differently(registry, tmp_path):
    for number in (1, 2):
        registry.push(write_package(tmp_path / f"{number}", number))
    found = {each.path: (each.before, each.after) for each in registry.diff(version(1), version(2))}
    assert found.keys() == {"digest", "evaluation.accuracy", "parts.model.onnx", "parts.evaluation.json"}
    assert found["evaluation.accuracy"] == (0.01, 0.02)
    assert registry.diff(version(1), version(1)) == []


def test_lineage_is_what_led_to_a_package_and_what_happened_to_it(registry, tmp_path):
    registry.record("train", "affine", {"commit": "one"})
    registry.push(write_package(tmp_path / "1", 1))
    registry.record("data", "affine", {"rows": 7})
    registry.record("train", "affine", {"commit": "two"})
    registry.record("note", "other", {"text": "of another model"})
    registry.push(write_package(tmp_path / "2", 2))
    registry.record("evaluate", "affine", {"metrics": {"accuracy": 1.0}}, version=version(2))
    registry.promote(version(2), "production", gate=OPEN)
    registry.record("train", "affine", {"commit": "three"})
    lineage = registry.lineage(PRODUCTION)
    assert [each.kind for each in lineage.before] == ["data", "train"]
    assert lineage.before[1].facts == {"commit": "two"}
    assert [each.kind for each in lineage.after] == ["push", "evaluate", "promote"]
    assert lineage.package["lineage"] == {"commit": "0" * 40, "seed": 7}
    json.dumps(lineage.describe())


def test_every_record_says_who_and_when(registry, tmp_path):
    record = registry.record("note", "affine", {"text": "hello"})
    assert record.who == "ada"
    assert record.at.endswith("+00:00")
    with Registry.open(str(tmp_path / "registry")) as other:
        assert "@" in other.record("note", "affine", {"text": "hello"}).who


def test_blobs_may_lie_elsewhere(tmp_path):
    place = tmp_path / "registry"
    place.mkdir()
    (place / "registry.toml").write_text('store = "memory://elsewhere"')
    with Registry.open(str(place), create=True) as registry:
        registry.push(write_package(tmp_path / "source"))
        registry.pull(version(1), tmp_path / "target")
        assert registry.verify().findings == ()
    assert not (place / "store").exists()
    assert package.verify(tmp_path / "target")


def test_the_layout_lists_the_packages_for_other_tools(registry, tmp_path):
    registry.push(write_package(tmp_path / "1", 1))
    registry.push(write_package(tmp_path / "2", 2), "other")
    index = json.loads((tmp_path / "registry" / "store" / "index.json").read_text())
    names = [each["annotations"]["org.opencontainers.image.ref.name"] for each in index["manifests"]]
    assert names == ["affine:1", "other:1"]


def test_a_user_without_a_name_has_a_number(tmp_path, monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", unknown)
    with Registry.open(str(tmp_path / "registry"), create=True) as registry:
        assert registry.who.split("@")[0].isdigit()


@pytest.mark.parametrize("create", [True, False])
def test_a_folder_that_nobody_can_look_at_is_one_error(tmp_path, create):
    with pytest.raises(RegistryAway, match="cannot be used: File name too long"):
        Registry.open(str(tmp_path / ("x" * 5000)), create=create)
