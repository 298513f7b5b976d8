import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import RegistryError
from serving.registry.record import GENESIS, RECORD_BYTES_MAX, Record, canonical, digest_of, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
FACTS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=4)


def record(**changes) -> Record:
    values = {"position": 1, "at": "2026-01-01T00:00:00.000+00:00", "who": "ada", "kind": "note", "model": "fraud",
              "facts": {"text": "é"}, "previous": GENESIS}  # fmt: skip
    return Record(**{**values, **changes})


@given(facts=FACTS)
def test_a_record_reads_back_as_it_was_written(facts):
    written = record(facts=facts)
    assert parse(written.text) == written
    assert parse(written.text).digest == written.digest


@given(facts=FACTS)
def test_the_digest_is_that_of_the_stored_line_and_of_nothing_else(facts):
    text = record(facts=dict(reversed(facts.items()))).text
    assert record(facts=facts).digest == "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "changes", [{"position": 2}, {"at": ""}, {"who": "eve"}, {"kind": "x"}, {"model": "x"}, {"facts": {}},
                {"previous": digest_of(b"")}],
)  # fmt: skip
def test_every_field_is_in_the_digest(changes):
    assert record(**changes).digest != record().digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not the fields"),
        ('{"position":1}', "not the fields"),
        (json.dumps(json.loads(record().text)), "not in canonical form"),
        (record().text.replace('"facts":{"text":"é"}', '"facts":7'), "not the fields"),
    ],
)
def test_what_is_no_record_is_refused(text, message):
    with pytest.raises(RegistryError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "cannot hold"), ({1: 2}, "a key is not text"), ("\ud800", "cannot hold"), (b"", "cannot hold"),
     ("x" * RECORD_BYTES_MAX, "at most")],
)  # fmt: skip
def test_what_json_cannot_say_is_refused(value, message):
    with pytest.raises(RegistryError, match=message):
        canonical({"value": value})


def test_depth_is_bounded():
    value: list = []
    for _ in range(100):
        value = [value]
    with pytest.raises(RegistryError, match="nested more than"):
        canonical(value)
