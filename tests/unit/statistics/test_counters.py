from serving.errors import Code, InvalidRequest
from serving.statistics.counters import RequestCounters


def test_answers_are_counted_by_model_version_code_and_reason():
    counters = RequestCounters()
    counters.count("m", "1", None)
    counters.count("m", "1", None)
    counters.count("m", "1", InvalidRequest("x"))
    counters.count("", "", InvalidRequest("x"))
    assert counters.outcomes == {
        ("m", "1", Code.OK, ""): 2,
        ("m", "1", Code.INVALID_ARGUMENT, "invalid"): 1,
        ("", "", Code.INVALID_ARGUMENT, "invalid"): 1,
    }
