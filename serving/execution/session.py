"""One ONNX graph, loaded: its signature, and running it on arrays.

An onnxruntime session may be run by several threads at once, so the instances of a servable share one and the weights
are held once. `run` hands arrays over without copying, and the outputs it returns are views of memory that onnxruntime
allocated, freed with the last view; binding outputs instead was measured to save no copy on CPU and to cost 5 us, so it
is used only where numpy has no such dtype (BF16), and for what lies in a GPU's memory: see `binding`.
"""

import contextlib
import ctypes
import functools
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from serving.config import InstancesConfig, SessionConfig
from serving.cores import usable_cores
from serving.errors import LoadError
from serving.execution.binding import can_bind, lies_on_gpu, run_bound
from serving.execution.graph import Graph
from serving.package.folder import files_beside, named_in
from serving.types import DYNAMIC, Array, Datatype, Signature, TensorSpec

if TYPE_CHECKING:
    from serving.gpu.device import Gpu

_LOG = logging.getLogger(__name__)

ort.disable_telemetry_events()

BUILD = f"onnxruntime {ort.__version__}"
"""What runs the graphs; another build may take other times."""

_ORT_TYPES: Mapping[str, Datatype] = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
    "tensor(bfloat16)": Datatype.BF16,
}


class Session:
    """A loaded graph. `run` may be called from several threads at once; `close` only when none does.

    `facts` are the graph's own `metadata_props`. `gpu` is the one of `[instances] kind = "gpu"`, in whose memory inputs
    may lie and outputs are left with `outputs_stay`; None without that kind, and for models with texts, whose tensors
    are given to onnxruntime on the host wherever it runs.
    """

    outputs_stay = False

    def __init__(self, source: Path | Graph, config: SessionConfig, instances: InstancesConfig) -> None:
        ort.set_default_logger_severity(4)  # its warnings are about graphs, not about serving; errors are raised anyway
        self.providers = _providers(config, instances)
        gpu = None if instances.gpu is None else _gpu(instances.gpu, self.providers)
        # Others may have threads or devices of their own.
        self.runs_on_caller = gpu is None and self.providers == ["CPUExecutionProvider"]
        self._session: Any = _open(source, config, instances, self.providers)
        self.signature = _signature(self._session)
        self.facts: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._input_names = [spec.name for spec in self.signature.inputs]
        self._output_names = [spec.name for spec in self.signature.outputs]
        self.gpu = gpu if can_bind(self.signature) else None
        specs = self.signature.inputs + self.signature.outputs
        self._is_always_bound = any(spec.datatype is Datatype.BF16 for spec in specs)
        if self._is_always_bound and not can_bind(self.signature):
            raise LoadError(
                "the graph has tensors of BF16 beside texts, and onnxruntime binds no texts; cast the BF16 ones to FP32"
            )

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Compute the outputs, in the model's order, of inputs in the model's order.

        Inputs may be `GpuArray`s where there is a `gpu`. Raises whatever onnxruntime raises; the caller translates.
        """
        is_on_gpu = self.gpu is not None and (self.outputs_stay or any(map(lies_on_gpu, inputs)))
        if is_on_gpu or self._is_always_bound:
            stay = self.outputs_stay
            return run_bound(self._session, self.signature, inputs, gpu=self.gpu, outputs_stay=stay)
        feed = dict(zip(self._input_names, inputs, strict=True))
        outputs: list[Array] = self._session.run(self._output_names, feed)
        return outputs

    def close(self) -> None:
        """Free the graph and give its memory back to the system."""
        self._session = None
        _trim_heap()


def _providers(config: SessionConfig, instances: InstancesConfig) -> list[str]:
    """Return the execution providers to use, refusing those that this onnxruntime does not have."""
    default = (
        ("CUDAExecutionProvider", "CPUExecutionProvider") if instances.gpu is not None else ("CPUExecutionProvider",)
    )
    wanted = list(config.providers or default)
    present = ort.get_available_providers()
    for provider in wanted:
        if provider not in present:
            hint = "; install onnxruntime-gpu in place of onnxruntime" if "CUDA" in provider else ""
            raise LoadError(f"execution provider {provider} is not available, there are {', '.join(present)}{hint}")
    if "CUDAExecutionProvider" in wanted:
        _find_libraries()
    return wanted


@functools.cache
def _find_libraries() -> None:
    """Load NVIDIA's libraries from where pip installs them: onnxruntime itself looks in the system's folders alone."""
    with contextlib.redirect_stdout(sys.stderr):  # where it prints what it does not find
        ort.preload_dlls()


def _gpu(number: int, providers: Sequence[str]) -> "Gpu":
    """Return the GPU that a model is to run on. Raises LoadError."""
    from serving.gpu.device import IS_SIMULATED, Gpu  # noqa: PLC0415 - brings numba.cuda

    gpu = Gpu(number)
    if IS_SIMULATED:
        _LOG.warning("NUMBA_ENABLE_CUDASIM is set: what should run on a GPU is simulated, slowly, on the CPU")
    elif "CUDAExecutionProvider" not in providers:
        raise LoadError(
            f'[instances] kind = "gpu" with providers = {list(providers)}, expected CUDAExecutionProvider among them'
        )
    return gpu


def threads_of(config: SessionConfig, instances: InstancesConfig) -> int:
    """Return how many threads one run uses: as many as told, or the cores divided by the instances."""
    return config.intra_op_threads or max(1, usable_cores() // instances.count)


def _open(source: Path | Graph, config: SessionConfig, instances: InstancesConfig, providers: Sequence[str]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_of(config, instances)
    options.inter_op_num_threads = config.inter_op_threads
    options.execution_mode = (
        ort.ExecutionMode.ORT_PARALLEL if config.inter_op_threads > 1 else ort.ExecutionMode.ORT_SEQUENTIAL
    )
    spinning = "1" if config.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    cuda = {"device_id": str(instances.gpus[0])}
    if instances.gpu_memory_bytes_max:
        cuda["gpu_mem_limit"] = str(instances.gpu_memory_bytes_max)
    devices = [cuda if "CUDA" in provider else {} for provider in providers]
    try:
        weights = _external_data(source) if isinstance(source, Path) else source.weights  # kept until it is loaded
        if weights:
            lengths = [len(content) for content in weights.values()]
            options.add_external_initializers_from_files_in_memory(list(weights), list(weights.values()), lengths)
        graph = str(source) if isinstance(source, Path) else source.model
        session = ort.InferenceSession(graph, options, providers=list(providers), provider_options=devices)
    except Exception as error:
        called = source.name if isinstance(source, Path) else "the graph of the package"
        raise LoadError(f"onnxruntime cannot load {called}: {_one_line(error)}") from error
    del weights
    loaded = session.get_providers()
    for provider in providers:
        # onnxruntime falls back in silence when a provider's libraries or device are missing.
        if provider not in loaded:
            raise LoadError(f"execution provider {provider} did not start; onnxruntime would use {', '.join(loaded)}")
    return session


def _external_data(path: Path) -> dict[str, bytes]:
    """Read the weights that lie in files beside the graph.

    onnxruntime would map those files, and writing over a mapped file in place, as `cp` does, kills the process that
    reads it.
    """
    names = files_beside(path)
    return {name: (path.parent / name).read_bytes() for name in named_in(path.read_bytes(), names)} if names else {}


def _signature(session: Any) -> Signature:
    inputs = tuple(_spec("input", node) for node in session.get_inputs())
    outputs = tuple(_spec("output", node) for node in session.get_outputs())
    if not outputs:
        raise LoadError("the graph has no outputs")
    batchable = bool(inputs) and all(spec.shape and spec.shape[0] == DYNAMIC for spec in inputs + outputs)
    return Signature(inputs, outputs, batchable)


def _spec(role: str, node: Any) -> TensorSpec:
    datatype = _ORT_TYPES.get(node.type)
    if datatype is None:
        hint = "; convert the classifier with ZipMap off" if node.type.startswith("seq(map") else ""
        raise LoadError(f"{role} '{node.name}' is a {node.type}, which the protocol cannot carry{hint}")
    return TensorSpec(node.name, datatype, tuple(d if isinstance(d, int) and d >= 0 else DYNAMIC for d in node.shape))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _trim_heap() -> None:
    """Ask the C library to return free memory; glibc would keep what an unloaded model has freed."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
