import math

import pytest

from serving.errors import RemoteError
from serving.pb import penstock_pb2 as pb
from serving.transport.drift import decode

COLLECTING = {"pane_s": 60.0, "alarm_panes": 1_000, "phase": "collecting"}


@pytest.mark.parametrize("paused_s", [math.nan, math.inf, -5.0])
def test_a_report_of_a_pause_that_cannot_be_is_refused(paused_s):
    assert decode(pb.ServableDrift(**COLLECTING, paused_s=5.0)).paused_s == 5
    with pytest.raises(RemoteError, match="the drift report contradicts itself: paused_s"):
        decode(pb.ServableDrift(**COLLECTING, paused_s=paused_s))
