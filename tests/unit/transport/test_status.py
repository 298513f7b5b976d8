import urllib.parse

import grpc
import pytest

from serving.errors import Code, InvalidRequest, Overloaded
from serving.transport.status import GRPC_CODES, RETRY_PUSHBACK, details, trailing_metadata


@pytest.mark.parametrize("code", Code)
def test_every_code_is_the_grpc_code_of_its_name(code):
    assert GRPC_CODES[code] is getattr(grpc.StatusCode, code.name)


def test_a_refusal_at_a_bound_carries_what_retry_policies_read():
    assert trailing_metadata(Overloaded("full", retry_after_ms=70)) == ((RETRY_PUSHBACK, "70"),)


def test_other_answers_carry_no_metadata():
    assert trailing_metadata(InvalidRequest("x")) == ()


def test_a_message_fits_a_trailer_however_its_letters_are_encoded():
    assert details(InvalidRequest("\U0001f600" * 5_000)).startswith("\U0001f600" * 100)
    assert len(urllib.parse.quote(details(InvalidRequest("\U0001f600" * 5_000)))) <= 4096
    assert details(InvalidRequest("plain")) == "plain"
