"""The shortest way through everything: one model, one request, the right answer."""

import urllib.request

import numpy as np

from serving.transport.client import Client
from serving.types import Datatype


def test_a_served_model_answers_with_its_outputs(affine_server):
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    with Client(affine_server.address) as client:
        response, outputs = client.infer("affine", {"x": (Datatype.FP32, rows)})
    np.testing.assert_array_equal(outputs["y"], 2 * rows + 1)
    assert response.model_version == "1"


def test_metrics_count_what_was_answered(affine_server):
    with Client(affine_server.address) as client:
        for _ in range(3):
            client.infer("affine", {"x": (Datatype.FP32, np.zeros((2, 4), np.float32))})
    with urllib.request.urlopen(f"{affine_server.http}/metrics") as page:
        text = page.read().decode()
    assert 'penstock_rows_total{model="affine",version="1"} 6.0' in text
    assert 'penstock_requests_total{code="OK",model="affine",reason="",version="1"} 3.0' in text
    assert 'penstock_request_seconds_count{model="affine",version="1"} 3.0' in text
