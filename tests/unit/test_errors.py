import pytest

from serving import errors
from serving.errors import MESSAGE_MAX, Code, InternalError, InvalidRequest, Overloaded, ServingError

ANSWERS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ServingError) and kind is not ServingError
]


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_answer_has_a_code_a_reason_and_its_message(kind):
    arguments = {Overloaded: {"retry_after_ms": 5}}.get(kind, {})
    error = kind() if kind is InternalError else kind("x: 1, expected 2", **arguments)
    assert error.code in Code
    assert error.code is not Code.OK
    assert error.reason.isidentifier()
    assert error.message == str(error)
    assert "expected 2" in error.message or kind is InternalError


def test_a_message_that_quotes_a_client_is_bounded():
    assert InvalidRequest("x" * MESSAGE_MAX).message == "x" * MESSAGE_MAX
    assert InvalidRequest("x" * 10 * MESSAGE_MAX).message == "x" * MESSAGE_MAX + "..."


def test_reasons_tell_all_answers_apart():
    assert len({kind.reason for kind in ANSWERS}) == len(ANSWERS)


@pytest.mark.parametrize("kind", ANSWERS)
def test_only_codes_that_clients_retry_are_retryable(kind):
    assert kind.retryable == (kind.code in {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE})


def test_a_refusal_says_when_trying_again_makes_sense():
    assert Overloaded("full", retry_after_ms=7).retry_after_ms == 7


def test_a_remote_error_keeps_the_code():
    error = errors.RemoteError("NOT_FOUND", "unknown model")
    assert error.code == "NOT_FOUND"
    assert str(error) == "NOT_FOUND: unknown model"


def test_what_is_for_an_operator_is_no_answer_to_a_client():
    for kind in (errors.LoadError, errors.ConfigError, errors.RemoteError):
        assert not issubclass(kind, ServingError)
