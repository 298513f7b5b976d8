"""Servers that nobody here wrote. PENSTOCK_PEERS names a folder with a virtual environment per peer, by its name."""

import os
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.load import write_forest
from bench.peers.model import read_model
from bench.peers.run import PEERS, measure_peers
from serving.transport.client import infer_message
from serving.types import Datatype
from tests.support import outcomes

FOLDER = os.environ.get("PENSTOCK_PEERS")
PRESENT = [peer for peer in PEERS if FOLDER and (Path(FOLDER) / peer.name).exists()]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="PENSTOCK_PEERS names no folder with the peers' environments"),
]


def listeners():
    """The addresses that descendants of this process listen on, with their ports."""
    family = psutil.Process().children(recursive=True)
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in family
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize("peer", PRESENT, ids=[peer.name for peer in PRESENT])
def test_a_real_peer_answers_as_onnxruntime_and_listens_on_the_loopback_interface_alone(peer, tmp_path):
    model = read_model(write_forest(tmp_path).parents[1])
    random, seen = np.random.default_rng(0), []
    rows = [(random.random((1 + index % 3, 30)) * 100).astype(np.float32) for index in range(16)]
    requests = [infer_message("forest", {"features": (Datatype.FP32, array)}).SerializeToString() for array in rows]

    def measure(host, port, name):
        seen.extend(listeners())
        assert port in {number for _, number in seen}
        return outcomes.outcome()

    view = measure_peers(
        model, requests, measure=measure, environments={peer.name: Path(FOLDER) / peer.name},
        tell=print, on_run=print, rounds=1, peers=[peer],
    )  # fmt: skip
    assert (view.absent, view.failure, len(view.runs)) == ({}, None, 1)
    assert {ip.removeprefix("::ffff:") for ip, _ in seen} == {"127.0.0.1"}
    assert not psutil.Process().children(recursive=True)
