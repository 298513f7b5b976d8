import grpc
import pytest

from serving.errors import Code, InvalidRequest, Overloaded
from serving.transport.status import GRPC_CODES, RETRY_PUSHBACK, trailing_metadata


@pytest.mark.parametrize("code", Code)
def test_every_code_is_the_grpc_code_of_its_name(code):
    assert GRPC_CODES[code] is getattr(grpc.StatusCode, code.name)


def test_a_refusal_at_a_bound_carries_what_retry_policies_read():
    assert trailing_metadata(Overloaded("full", retry_after_ms=70)) == ((RETRY_PUSHBACK, "70"),)


def test_other_answers_carry_no_metadata():
    assert trailing_metadata(InvalidRequest("x")) == ()
