import signal

import pytest

from serving.commands.termination import ended_by_term


def test_a_request_to_end_is_heeded_and_the_handler_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, ended_by_term():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
