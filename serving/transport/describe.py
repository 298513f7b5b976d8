"""Servables and index entries as messages of the protocol. Pure."""

import json
from collections.abc import Iterable, Sequence

from serving.config import VersionPolicy
from serving.model import Servable
from serving.pb import model_config_pb2 as config_pb
from serving.pb import open_inference_pb2 as pb
from serving.repository.entry import IndexEntry
from serving.repository.lifecycle import INDEX_NAMES
from serving.repository.scanner import MODEL_FILE
from serving.statistics.latency import Duration, Histogram
from serving.types import Datatype, TensorSpec

PIPELINE = "pipeline"
"""The parameter of a model's configuration that reports its pipeline, as JSON: one object per pass over the batch."""
PLATFORM = "onnxruntime_onnx"  # Triton's word, which its clients know


def metadata(servable: Servable, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """Describe the tensors of a servable; `versions` are all ready versions of its model."""
    return pb.ModelMetadataResponse(
        name=servable.name,
        versions=[str(version) for version in versions],
        platform=PLATFORM,
        inputs=[_tensor(spec) for spec in servable.signature.inputs],
        outputs=[_tensor(spec) for spec in servable.signature.outputs],
    )


def config(servable: Servable) -> pb.ModelConfigResponse:
    """Describe how a servable is served, in Triton's terms: dims leave out the batch dimension of a batchable model."""
    batchable = servable.signature.batchable
    model, skip = servable.config, 1 if batchable else 0
    message = config_pb.ModelConfig(
        name=servable.name,
        platform=PLATFORM,
        backend="onnxruntime",
        version_policy=_version_policy(model.version_policy),
        max_batch_size=servable.batch_rows_max if batchable else 0,
        input=[
            config_pb.ModelInput(name=spec.name, data_type=_data_type(spec.datatype), dims=spec.shape[skip:])
            for spec in servable.signature.inputs
        ],
        output=[
            config_pb.ModelOutput(name=spec.name, data_type=_data_type(spec.datatype), dims=spec.shape[skip:])
            for spec in servable.signature.outputs
        ],
        instance_group=[_instance_group(servable)],
        default_model_filename=MODEL_FILE,
    )
    if servable.package_digest:
        message.parameters["package_digest"].string_value = servable.package_digest
    if servable.pipeline is not None:
        message.parameters[PIPELINE].string_value = json.dumps(servable.pipeline.report())
    if batchable:
        message.dynamic_batching.max_queue_delay_microseconds = model.batching.queue_delay_us_max
        message.dynamic_batching.default_queue_policy.allow_timeout_override = True
    return pb.ModelConfigResponse(config=message)


def statistics(servable: Servable) -> pb.ModelStatistics:
    """Report what a servable did, cumulatively."""
    counted = servable.statistics
    stages, gpu = counted.stages, servable.config.instances.gpu
    held = [] if gpu is None else [pb.MemoryUsage(type="GPU", id=gpu, byte_size=servable.footprint.gpu_bytes)]
    return pb.ModelStatistics(
        name=servable.name,
        version=str(servable.version),
        last_inference=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(stages["request"]),
            fail=_duration(counted.fail),
            queue=_duration(stages["queue"]),
            compute_input=_duration(stages["compute_input"]),
            compute_infer=_duration(stages["compute_infer"]),
            compute_output=_duration(stages["compute_output"]),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(entry.compute_input),
                compute_infer=_duration(entry.compute_infer),
                compute_output=_duration(entry.compute_output),
            )
            for rows, entry in sorted(counted.batches.items())
        ],
        memory_usage=held,
    )


def index(entries: Iterable[IndexEntry]) -> pb.RepositoryIndexResponse:
    """List versions and their states."""
    return pb.RepositoryIndexResponse(
        models=[
            pb.RepositoryIndexResponse.ModelIndex(
                name=entry.name, version=entry.version, state=INDEX_NAMES[entry.state], reason=entry.reason
            )
            for entry in entries
        ]
    )


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype.wire_name, shape=spec.shape)


def _data_type(datatype: Datatype) -> config_pb.DataType:
    name = "STRING" if datatype is Datatype.BYTES else datatype.wire_name
    value: config_pb.DataType = getattr(config_pb, f"TYPE_{name}")
    return value


def _version_policy(policy: VersionPolicy) -> config_pb.ModelVersionPolicy:
    message = config_pb.ModelVersionPolicy()
    if policy.specific:
        message.specific.versions.extend(policy.specific)
    elif policy.latest:
        message.latest.num_versions = policy.latest
    else:
        message.all.SetInParent()
    return message


def _instance_group(servable: Servable) -> config_pb.ModelInstanceGroup:
    instances = servable.config.instances
    on_gpu = instances.gpu is not None
    return config_pb.ModelInstanceGroup(
        name=servable.name,
        kind=config_pb.ModelInstanceGroup.KIND_GPU if on_gpu else config_pb.ModelInstanceGroup.KIND_CPU,
        count=instances.count,
        gpus=instances.gpus if on_gpu else (),
    )


def _duration(duration: Duration | Histogram) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.total_ns)
