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


def test_the_room_is_what_would_be_admitted():
    admission = Admission(3)
    admission.admit()
    assert admission.room == 2
    assert admission.admit_many(2) == (2, None)
    assert admission.room == 0
    admission.release(3)
    assert admission.room == 3
    admission.drain(lambda: None)
    assert admission.room == 0


def test_a_draining_server_admits_nothing_and_lets_the_others_leave():
    admission, idle = Admission(2), []
    admission.admit()
    admission.admit()
    admission.drain(lambda: idle.append(1))
    with pytest.raises(Draining):
        admission.admit()
    admission.release()
    assert idle == []
    admission.release()
    assert idle == [1]


def test_an_idle_server_is_drained_at_once():
    idle = []
    Admission(1).drain(lambda: idle.append(1))
    assert idle == [1]


def test_leaving_without_having_come_is_a_bug():
    with pytest.raises(AssertionError, match="never admitted"):
        Admission(1).release()
