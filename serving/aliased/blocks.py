"""From readings of the arms, taken now and then, to blocks of time in which the arms are compared. Pure."""

from serving.release.judge import Arm, Block
from serving.release.policy import RolloutConfig
from serving.release.sightings import Sighting
from serving.release.verdict import LATENCIES
from serving.repository.trials import ArmReading, Reading

_SHARES = {"p50": 0.5, "p90": 0.9}
assert set(_SHARES) == set(LATENCIES), "bug: a statistic is judged that nobody computes"


class Blocks:
    """Cuts the readings of one step into blocks. One thread uses it.

    A block lasts `block_s`, and until both arms together had `block_requests_min` requests, so that none is compared
    on next to nothing; but never longer than `hold_s_max`.
    """

    def __init__(self, config: RolloutConfig, first: Reading) -> None:
        self._config = config
        self._last = first

    def add(self, reading: Reading) -> list[Sighting]:
        """Take a reading; return the block that it ends, if it ends one."""
        before, config = self._last, self._config
        passed_s = (reading.at_ns - before.at_ns) / 1e9
        requests = sum(arm.requests for arm in (reading.canary, reading.control))
        requests -= sum(arm.requests for arm in (before.canary, before.control))
        is_over = passed_s >= config.block_s and requests >= config.block_requests_min
        if not is_over and passed_s < config.hold_s_max:
            return []
        self._last = reading
        block = Block(_between(before.canary, reading.canary), _between(before.control, reading.control))
        return [Sighting(block, differing=reading.differing - before.differing)]


def _between(before: ArmReading, after: ArmReading) -> Arm:
    """Return what an arm did between two readings; latencies are those of requests that were answered with outputs."""
    latency_us = {}
    if after.latency is not None and before.latency is not None:
        passed = after.latency.since(before.latency)
        if passed.count:
            latency_us = {name: passed.quantile_ns(share) / 1e3 for name, share in _SHARES.items()}
    return Arm(after.requests - before.requests, after.errors - before.errors, latency_us)
