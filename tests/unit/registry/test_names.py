import pytest

from serving.errors import RegistryError
from serving.registry.names import (
    Alias,
    Version,
    check_digest,
    check_word,
    parse_alias,
    parse_reference,
    parse_version,
)


def test_a_reference_is_a_version_or_an_alias_and_reads_back_what_it_prints():
    for text, expected in [("fraud/3", Version("fraud", 3)), ("a.b-c_d@production", Alias("a.b-c_d", "production"))]:
        assert parse_reference(text) == expected
        assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["", "fraud", "fraud/0", "fraud/01", "fraud/-1", "fraud/1/2", "../x/1", ".x/1", "x@", "@x", "x@a@b", "x/1\n",
     "x/" + "9" * 19, "é/1", "a b/1", "x" * 129 + "/1", "x./1"],
)  # fmt: skip
def test_what_names_nothing_is_refused_with_what_was_expected(text):
    with pytest.raises(RegistryError, match="expected NAME/SEQ"):
        parse_reference(text)


def test_a_verb_that_needs_one_kind_of_reference_refuses_the_other():
    with pytest.raises(RegistryError, match="an alias, which may move"):
        parse_version("fraud@production")
    with pytest.raises(RegistryError, match="expected NAME@ALIAS"):
        parse_alias("fraud/1")
    with pytest.raises(RegistryError, match=r"'fraud' names no package; expected NAME@ALIAS such as [a-z@]*$"):
        parse_alias("fraud")
    with pytest.raises(RegistryError, match=r"'fraud' names no package; expected NAME/SEQ such as [a-z/3]*$"):
        parse_version("fraud")


@pytest.mark.parametrize("text", ["", "a/b", "..", "-x", "x\n", "a\0b"])
def test_a_word_is_neither_a_path_nor_a_flag(text):
    with pytest.raises(RegistryError, match="cannot be an alias"):
        check_word("an alias", text)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "sha256:" + "A" * 64])
def test_only_a_sha256_is_a_digest(text):
    with pytest.raises(RegistryError, match="no digest"):
        check_digest(text)
