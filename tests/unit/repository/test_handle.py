import threading

import pytest

from serving.repository.handle import Handle


@pytest.fixture
def handle():
    return Handle(object())


def test_a_retired_handle_nobody_uses_is_idle_at_once(handle):
    idle = []
    handle.retire(lambda: idle.append(1))
    assert idle == [1]


def test_a_retired_handle_waits_for_its_last_user(handle):
    idle = []
    assert handle.acquire()
    assert handle.acquire()
    handle.retire(lambda: idle.append(1))
    handle.release()
    assert idle == []
    handle.release()
    assert idle == [1]


def test_a_retired_handle_takes_no_new_users(handle):
    assert handle.acquire()
    handle.retire(lambda: None)
    assert not handle.acquire()


def test_a_handle_in_use_again_and_again_is_never_idle_before_it_is_retired(handle):
    for _ in range(3):
        assert handle.acquire()
        handle.release()
    assert handle.acquire()


def test_one_release_too_many_is_a_bug(handle):
    with pytest.raises(AssertionError, match="released more often"):
        handle.release()


def test_retiring_twice_is_a_bug(handle):
    handle.retire(lambda: None)
    with pytest.raises(AssertionError, match="retired twice"):
        handle.retire(lambda: None)


def test_many_threads_leave_it_idle_exactly_once(handle):
    idle, start = [], threading.Barrier(9)

    def use():
        start.wait()
        while handle.acquire():
            handle.release()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    handle.retire(lambda: idle.append(1))
    for thread in threads:
        thread.join()
    assert idle == [1]
