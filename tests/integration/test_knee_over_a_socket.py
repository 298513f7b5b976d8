"""The knee of a server that takes the same time for every request, over real sockets, held to an exact simulation.

It wants a machine that is quiet for two minutes: where the generator is late too often, the interval says so by being
wide, and the estimate may be off by more.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_server import fake_server
from tests.support.virtual_servers import waits

ROOT = Path(__file__).parents[2]
SERVICE_S, P99_S = 0.001, 0.020
SEARCH_S_MAX = 120


def exact_knee() -> float:
    """Return the knee for Poisson arrivals, by bisection over simulations of 2,000,000 requests that share their gaps.

    One server in the order of arrival: Lindley's recursion, see `waits`.
    """
    gaps = np.random.default_rng(0).exponential(1.0, 2_000_000)
    low, high = 0.5 / SERVICE_S, 1.0 / SERVICE_S
    while high / low > 1.001:
        rate = (low + high) / 2
        latency_s = waits(np.cumsum(gaps / rate), np.full(len(gaps), SERVICE_S)) + SERVICE_S
        low, high = (rate, high) if np.quantile(latency_s, 0.99) <= P99_S else (low, rate)
    return low


@pytest.mark.slow
def test_the_knee_lies_within_five_percent_of_the_exact_one(tmp_path):
    file = tmp_path / "knee.json"
    arguments = ("--model", "fake", "--p99-ms", f"{P99_S * 1e3:g}", "--json", str(file))
    with fake_server(service_s=SERVICE_S) as server:
        command = [sys.executable, "-m", "serving", "bench", "knee", "--address", f"127.0.0.1:{server.port}"]
        began_s = time.monotonic()
        subprocess.run([*command, *arguments], cwd=ROOT, check=True, capture_output=True)
        took_s = time.monotonic() - began_s
    *probes, knee = [json.loads(line) for line in file.read_text().splitlines()]
    print(f"\nexact {exact_knee():.1f}, found {knee['rate_rps']:.1f} [{knee['low_rps']:.1f}, {knee['high_rps']:.1f}], "
          f"{len(probes)} probes, {took_s:.0f} s; {knee['ended']}")  # fmt: skip
    assert knee["rate_rps"] == pytest.approx(exact_knee(), rel=0.05)
    assert knee["low_rps"] <= exact_knee() * 1.01
    assert knee["high_rps"] >= exact_knee() * 0.99
    assert took_s < SEARCH_S_MAX + 10, "with the start of the command's processes"
