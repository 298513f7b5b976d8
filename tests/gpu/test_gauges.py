"""What GPUs and servables on them are shown to use."""

import urllib.request

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from serving.gpu.device import IS_SIMULATED
from serving.gpu.gauges import read
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.servers import server_thread

WIDTH, LAYERS = 1024, 8
ON_GPU = """
[instances]
kind = "gpu"

[session]
providers = {providers}
"""


def test_a_gpu_tells_what_it_does(gpu):
    reading = read(gpu.number)
    if IS_SIMULATED:
        assert reading is None
        assert gpu.used_bytes() == 0
        return
    assert reading.uuid.startswith("GPU-")
    assert 0 < reading.used_bytes <= reading.total_bytes
    assert 0 < gpu.used_bytes() <= reading.total_bytes
    assert 0 <= reading.utilisation <= 1
    assert reading.power_w > 0


def test_a_server_shows_its_gpus_and_what_its_models_took_there(gpu, place, repository):
    on_gpu = ON_GPU.format(providers=list(place[1].get("providers", ())))
    graphs.write_model(repository, "here", graphs.affine())
    graphs.write_model(repository, "there", graphs.heavy(WIDTH, LAYERS), config=on_gpu)
    with server_thread(repository, transport="grpcio", triton_metrics="on") as server, Client(server.address) as client:
        client.infer("there", {"x": (Datatype.FP32, np.zeros((1, WIDTH), np.float32))})
        usage = {
            name: client.call("ModelStatistics", pb.ModelStatisticsRequest(name=name), pb.ModelStatisticsResponse)
            .model_stats[0].memory_usage
            for name in ("here", "there")
        }  # fmt: skip
        with urllib.request.urlopen(f"{server.http}/metrics", timeout=10) as answer:
            page = answer.read().decode()
    assert not usage["here"]
    (one,) = usage["there"]
    assert (one.type, one.id) == ("GPU", gpu.number)
    samples = {family.name: family.samples for family in text_string_to_metric_families(page)}
    (sample,) = samples["penstock_model_gpu_memory_bytes"]
    assert (sample.labels["model"], sample.value) == ("there", one.byte_size)
    if IS_SIMULATED:
        assert one.byte_size == 0
        assert not any(name.startswith(("penstock_gpu", "nv_gpu")) for name in samples)
        return
    assert one.byte_size >= 4 * LAYERS * WIDTH**2  # the weights
    (used,) = samples["penstock_gpu_memory_used_bytes"]
    assert used.labels == {"gpu": "0", "gpu_uuid": read(0).uuid}
    assert used.value > one.byte_size
    assert {"penstock_gpu_memory_bytes", "penstock_gpu_utilisation_ratio", "penstock_gpu_power_watts"} <= samples.keys()
    assert {"nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes", "nv_gpu_utilization"} <= samples.keys()
    assert samples["nv_gpu_power_usage"][0].labels == {"gpu_uuid": used.labels["gpu_uuid"]}
