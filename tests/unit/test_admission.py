import pytest

from serving.admission import Admission
from serving.errors import Draining, Overloaded


def test_the_bound_holds_and_a_leaving_request_makes_room():
    admission = Admission(2)
    admission.admit()
    admission.admit()
    with pytest.raises(Overloaded, match="requests_in_flight_max = 2") as caught:
        admission.admit()
    assert caught.value.retry_after_ms > 0
    assert admission.in_flight == 2
    admission.release()
    admission.admit()
    assert admission.in_flight == 2


def test_a_draining_server_admits_nothing_and_lets_the_others_leave():
    admission = Admission(2)
    admission.admit()
    admission.drain()
    with pytest.raises(Draining):
        admission.admit()
    admission.release()
    assert admission.in_flight == 0


def test_leaving_without_having_come_is_a_bug():
    with pytest.raises(AssertionError, match="never admitted"):
        Admission(1).release()
