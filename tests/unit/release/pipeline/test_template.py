import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.release.pipeline.template import Placeholder, fill, parse, placeholders


def test_placeholders_are_filled_where_they_stand():
    template = parse("--rows={data:train.npz},{parameter:n} {python} {{as it is}}")
    assert placeholders(template) == [
        Placeholder("data", "train.npz"),
        Placeholder("parameter", "n"),
        Placeholder("python"),
    ]
    assert fill(template, lambda each: f"<{each.name or each.kind}>") == "--rows=<train.npz>,<n> <python> {as it is}"


@given(st.text())
def test_a_text_whose_braces_are_doubled_stands_for_itself(text):
    doubled = text.replace("{", "{{").replace("}", "}}")
    assert fill(parse(doubled), lambda _: "?") == text


@pytest.mark.parametrize("text", ["{", "}", "a {b", "{file:}", "{file}", "{python:3}", "{a b:c}", "{:x}", "{}"])
def test_braces_that_mean_nothing_are_refused(text):
    with pytest.raises(ConfigError, match="or a brace doubled"):
        parse(text)


def test_a_placeholder_is_shown_as_it_is_written():
    assert str(Placeholder("data", "a/b")) == "{data:a/b}"
    assert str(Placeholder("python")) == "{python}"
