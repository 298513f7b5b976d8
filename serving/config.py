"""Configuration: two tables of options, and how files and environment variables become frozen values.

`ServerConfig` is what `penstock serve` takes, from a flag, from `PENSTOCK_` and the flag's name in the environment, or
from a TOML file, in this order of strength. `ModelConfig` is a model's own `model.toml`. The field of a dataclass is
the one place where an option exists: its type, default, bounds and help. `--help`, the README's tables and the errors
come from there.
"""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, cast, get_args, get_origin

from serving.errors import ConfigError

ENVIRONMENT_PREFIX = "PENSTOCK_"
CONFIG_BYTES_MAX = 1 << 20
ROWS_ALLOWED_MAX = 32
"""Each allowed size of a batch is measured when a model loads."""
CALIBRATION_PANES_MIN = 50
"""Fewer panes say too little about their own variation."""


def option(default: Any, help_text: str, **rules: Any) -> Any:
    """Declare an option. `rules`: `minimum` and `maximum` of a number, `choices` and `metavar` of a string."""
    metadata = {"help": help_text, **rules}
    if isinstance(default, (list, dict)):
        raise TypeError("an option's default is immutable")
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The options of `penstock serve`."""

    models: Path = option(
        Path("models"), "The model repository: a folder of MODEL/VERSION/model.onnx, and of packages in its place."
    )
    package_keys: str = option(
        "", "A folder of public keys (PEM, ed25519). When given, only packages that one of them signed are loaded.",
        metavar="DIR",
    )  # fmt: skip
    registry: str = option(
        "",
        "The registry for --model: a folder, or mlflow+http://HOST:PORT. Empty: penstock/registry in the data folder.",
        metavar="URI",
    )
    model: tuple[str, ...] = option(
        (), "Models of the registry to serve by an alias, such as fraud@production; what it names is followed."
    )
    registry_interval_s: float = option(
        5.0, "Look at the aliases this often; 0 only at the start.", minimum=0, maximum=86_400
    )
    registry_cache: str = option(
        "", "Where packages from the registry lie. Empty: penstock/packages in the user's cache folder.", metavar="DIR"
    )
    host: str = option("127.0.0.1", "The address to listen on. Other machines can connect only when you change it.")
    grpc_port: int = option(8001, "The gRPC port; 0 picks a free one and prints it.", minimum=0, maximum=65535)
    http_port: int = option(
        8002, "The port of /metrics, /livez and /readyz; 0 picks a free one.", minimum=0, maximum=65535
    )
    control_plane: str = option(
        "loopback", "Who may load and unload models, and pause drift: peers on this machine, anyone, or nobody.",
        choices=("loopback", "on", "off"),
    )  # fmt: skip
    control_plane_clients: tuple[str, ...] = option(
        (), "Names in client certificates that may do so from anywhere, unless control_plane is off.",
    )  # fmt: skip
    tls_cert: str = option(
        "", "PEM file of the server's certificate and the chain above it. The gRPC port speaks TLS when it is given.",
        metavar="FILE",
    )  # fmt: skip
    tls_key: str = option("", "PEM file of the certificate's private key.", metavar="FILE")
    tls_client_ca: str = option(
        "", "PEM file of CAs. When given, clients must show a certificate that one of them signed (mTLS).",
        metavar="FILE",
    )  # fmt: skip
    tls_reload_interval_s: float = option(
        60.0, "Look for changed TLS files this often; 0 never. New connections get what changed.",
        minimum=0, maximum=86_400,
    )  # fmt: skip
    calibration_dir: str = option(
        "", "Where measured batch times are kept between loads; empty: penstock/calibration in the user's cache.",
        metavar="DIR",
    )  # fmt: skip
    poll_interval_s: float = option(
        0.0, "Look for new, changed and removed versions this often; 0 only when a load is asked for.",
        minimum=0, maximum=86_400,
    )  # fmt: skip
    max_message_mib: int = option(64, "The largest request message, in MiB.", minimum=1, maximum=2047)
    transport: str = option(
        "native", "What speaks gRPC: native (compiled, in batches) or grpcio (gRPC's own library).",
        choices=("native", "grpcio"),
    )  # fmt: skip
    inline_us_max: int = option(
        1000, "How long a turn of the event loop may run cheap batches; 0 leaves all to instance threads. Native.",
        transport="native", minimum=0, maximum=1_000_000,
    )  # fmt: skip
    connections_max: int = option(
        1024, "gRPC connections at a time; further ones are closed.", minimum=1, maximum=65_536
    )
    streams_per_connection_max: int = option(256, "Calls in flight on one connection.", minimum=1, maximum=65_536)
    header_list_bytes_max: int = option(
        16_384, "The metadata of one call, as HTTP/2 counts it.", minimum=1024, maximum=262_144
    )
    unsent_bytes_max: int = option(
        16 << 20, "Answers on one connection that wait for the peer; beyond, new calls are refused. Native.",
        transport="native", minimum=65_536, maximum=1 << 40,
    )  # fmt: skip
    assembly_bytes_max: int = option(
        256 << 20, "Bytes of messages held outside of batches, and of answers that wait, over all connections. Native.",
        transport="native", minimum=65_536, maximum=1 << 40,
    )  # fmt: skip
    handshake_timeout_s: float = option(
        10.0, "A peer must complete its handshake, and a frame it has begun, within this time.",
        minimum=0.01, maximum=86_400,
    )  # fmt: skip
    message_timeout_s: float = option(
        60.0,
        "A peer must complete a message within this time. Native.",
        transport="native",
        minimum=0.01,
        maximum=86_400,
    )
    stall_timeout_s: float = option(
        30.0, "A peer that takes nothing of its answers for so long is cut off. Native.",
        transport="native", minimum=0.01, maximum=86_400,
    )  # fmt: skip
    requests_in_flight_max: int = option(
        16_384,
        "Requests admitted at a time, over all models; further ones get RESOURCE_EXHAUSTED.",
        minimum=1,
        maximum=1_000_000,
    )
    user_code: str = option(
        "off", "Whether Python files of models may run, as steps of their pipelines: with the rights of the server.",
        choices=("off", "on"),
    )  # fmt: skip
    drain_timeout_s: float = option(
        30.0, "How long SIGTERM, or unloading a model, waits for requests in flight.", minimum=0, maximum=86_400
    )
    state_dir: str = option(
        "", "Folder in which evidence of drift survives a restart; none keeps it in memory only.", metavar="DIR"
    )
    drift_webhook: str = option("", "Where to POST an alarm of drift, as JSON: an http or https URL.", metavar="URL")
    drift_webhook_key: str = option(
        "", "File of the secret that signs what is posted (HMAC-SHA256), see Drift.", metavar="FILE"
    )
    otlp_endpoint: str = option(
        "", "Where to send traces by OTLP over HTTP, such as http://127.0.0.1:4318; see Traces.", metavar="URL"
    )
    trace_ratio: float = option(
        0.01, "The part of requests to trace, of those whose callers do not say.", minimum=0.0, maximum=1.0
    )
    triton_metrics: str = option(
        "off", "Whether /metrics shows Triton's nv_* too, for dashboards made for it.", choices=("off", "on")
    )
    log_format: str = option("text", "How log lines on stderr are written.", choices=("text", "json"))
    log_level: str = option(
        "info", "The least severe log line to write.", choices=("debug", "info", "warning", "error")
    )

    def __post_init__(self) -> None:
        needs = [
            ("tls_cert", "tls_key"),
            ("tls_key", "tls_cert"),
            ("tls_client_ca", "tls_cert"),
            ("control_plane_clients", "tls_client_ca"),
            ("drift_webhook_key", "drift_webhook"),
        ]
        for name, needed in needs:
            if getattr(self, name) and not getattr(self, needed):
                raise ConfigError(f"{name} is given without {needed}; give both, or neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingConfig:
    """`[batching]`: how requests of a model are grouped. Limits count rows, never requests."""

    mode: str = option(
        "adaptive", "adaptive: batches as the model's own timings say; window: the two knobs below; none: no grouping.",
        choices=("adaptive", "window", "none"),
    )  # fmt: skip
    batch_rows_max: int = option(
        256, "The most rows in one batch, and in one request. 1 runs every row alone.", minimum=1, maximum=1 << 20
    )
    queue_rows_max: int = option(
        4096, "The most rows that wait; a request beyond gets RESOURCE_EXHAUSTED.", minimum=1, maximum=1 << 24
    )
    queue_bytes_max: int = option(
        256 << 20,
        "The most bytes of waiting input tensors; a request beyond gets RESOURCE_EXHAUSTED.",
        minimum=1,
        maximum=1 << 40,
    )
    queue_delay_us_max: int = option(
        0, "In mode window, how long the first row may wait for more rows while an instance is idle. 0: never.",
        minimum=0, maximum=60_000_000,
    )  # fmt: skip
    batch_rows_preferred: tuple[int, ...] = option(
        (), "In mode window, a batch of so many rows does not wait; the largest one that is filled is taken."
    )
    batch_rows_allowed: tuple[int, ...] = option(
        (), "The model runs batches of so many rows only, so others are padded to the next one. Empty: of any number."
    )

    def __post_init__(self) -> None:
        if self.batch_rows_allowed:
            self._check_allowed(self.batch_rows_allowed)
            object.__setattr__(self, "batch_rows_max", self.batch_rows_allowed[-1])  # no batch can have more
        for name in ("queue_delay_us_max", "batch_rows_preferred"):
            if getattr(self, name) and self.mode != "window":
                raise ConfigError(
                    f'[batching] {name} is given with mode = "{self.mode}", which does not wait for it; '
                    f'add mode = "window", or leave {name} out'
                )
        if not all(0 < rows <= self.batch_rows_max for rows in self.batch_rows_preferred):
            raise ConfigError(
                f"[batching] batch_rows_preferred = {list(self.batch_rows_preferred)}, "
                f"expected numbers of rows from 1 to batch_rows_max = {self.batch_rows_max}"
            )
        if self.queue_rows_max < self.batch_rows_max:
            raise ConfigError(
                f"[batching] queue_rows_max = {self.queue_rows_max} is below batch_rows_max = {self.batch_rows_max}; "
                "a full batch could never be queued"
            )

    def _check_allowed(self, allowed: Sequence[int]) -> None:
        given = f"[batching] batch_rows_allowed = {list(allowed)}"
        if self.mode == "none":
            raise ConfigError(f'{given} is given with mode = "none", which makes no batches; leave one of them out')
        if list(allowed) != sorted({*allowed}) or not 0 < allowed[0] <= allowed[-1] <= self.batch_rows_max:
            raise ConfigError(
                f"{given}, expected ascending numbers of rows from 1 to batch_rows_max = {self.batch_rows_max}"
            )
        if len(allowed) > ROWS_ALLOWED_MAX:
            raise ConfigError(f"[batching] batch_rows_allowed has {len(allowed)} sizes, at most {ROWS_ALLOWED_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancesConfig:
    """`[instances]`: how many batches of a model run at the same time, and on what."""

    count: int = option(1, "Instances of each version, per GPU when kind is gpu. Weights are held once.",
                        minimum=1, maximum=256)  # fmt: skip
    kind: str = option("cpu", "Where the instances run.", choices=("cpu", "gpu"))
    gpus: tuple[int, ...] = option((0,), "The GPU that runs the model when kind is gpu; one in this version.")
    gpu_memory_bytes_max: int = option(0, "GPU memory that onnxruntime takes for a version at most; 0 is no bound.",
                                       minimum=0, maximum=1 << 48)  # fmt: skip

    def __post_init__(self) -> None:
        if len(self.gpus) != 1 or self.gpus[0] < 0:
            raise ConfigError(f"[instances] gpus = {list(self.gpus)}, expected one GPU number such as [0]")

    @property
    def gpu(self) -> int | None:
        """The number of the GPU that runs the model; None when the CPU does."""
        return self.gpus[0] if self.kind == "gpu" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """`[session]`: how onnxruntime runs the model."""

    providers: tuple[str, ...] = option(
        (), "Execution providers in order of preference; empty takes the CPU's, or CUDA's when instances.kind is gpu."
    )
    intra_op_threads: int = option(
        0, "Threads inside one operator, shared by the instances; 0 takes the cores divided by the instances.",
        minimum=0, maximum=1024,
    )  # fmt: skip
    inter_op_threads: int = option(
        1, "Operators of one graph run side by side by this many threads; 1 runs them in sequence.",
        minimum=1, maximum=1024,
    )  # fmt: skip
    spinning: bool = option(False, "Let idle operator threads spin: faster for one model alone, costly for neighbours.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftConfig:
    """`[drift]`: how the rows that are served are compared with the reference profile, or with the first rows."""

    enabled: bool = option(True, "Whether rows are counted at all.")
    overhead_max: float = option(
        0.01, "Counting takes at most this share of the time of inference, by sampling rows; 1.0 counts all.",
        minimum=0.0001, maximum=1.0,
    )  # fmt: skip
    reference_rows: int = option(
        5_000, "Without a profile in the package, so many first rows are the reference.", minimum=100, maximum=1_000_000
    )
    pane_s: float = option(
        60.0, "Evidence is computed at most this often, on boundaries of the wall clock.", minimum=0.1, maximum=86_400
    )
    pane_rows_min: int = option(
        100, "A pane goes on over further boundaries until it has so many sampled rows.", minimum=10, maximum=1 << 24
    )
    tolerance: float = option(
        0.005, "How far rows may be from the reference for ever, in nats per row; 0.005 is a shift of 0.1 sigma.",
        minimum=0.0, maximum=10.0,
    )  # fmt: skip
    alarm_panes: int = option(
        1_000, "Panes between two false alarms, in the mean and at least.", minimum=10, maximum=1_000_000_000
    )
    calibration_panes: int = option(
        0, "For rows that come in clusters: so many first panes tell how much panes vary by themselves; 0: none.",
        minimum=0, maximum=100_000,
    )  # fmt: skip

    feedback_requests_max: int = option(
        0, "Requests with an id that wait for a label, see Feedback; older ones are forgotten. 0: none.",
        minimum=0, maximum=10_000_000,
    )  # fmt: skip
    feedback_labels_reference: int = option(
        500, "The errors of so many first labels are the reference for later ones.", minimum=100, maximum=1_000_000
    )

    def __post_init__(self) -> None:
        if 0 < self.calibration_panes < CALIBRATION_PANES_MIN:
            raise ConfigError(
                f"[drift] calibration_panes = {self.calibration_panes}, expected 0 or at least {CALIBRATION_PANES_MIN}"
            )


Table = Mapping[str, Any]
"""A table of TOML whose keys are checked elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """`[pipeline]`: what is done to a batch before the model and behind it. `serving.pipeline` knows the steps."""

    inputs: tuple[Table, ...] = option(
        (), "Tensors that clients send instead of the model's inputs: tables of name, datatype, shape."
    )
    preprocess: tuple[Table, ...] = option((), "Steps from what clients send to the model's inputs, in order.")
    postprocess: tuple[Table, ...] = option((), "Steps from the model's outputs to the answer, in order.")
    outputs: tuple[str, ...] = option((), "The tensors of the answer; empty takes all that no step has read.")

    @property
    def is_empty(self) -> bool:
        """Whether the model is served as it is."""
        return not (self.inputs or self.preprocess or self.postprocess or self.outputs)


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions serve: the newest `latest` ones, or exactly `specific`, or all when both are empty."""

    latest: int = 1
    specific: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `all`, `latest(N)` or `specific(V, ...)`."""
        if text == "all":
            return cls(latest=0)
        if match := re.fullmatch(r"latest\((\d{1,9})\)", text):
            if int(match[1]) > 0:
                return cls(latest=int(match[1]))
        elif match := re.fullmatch(r"specific\((\d{1,18}(?: *, *\d{1,18})*)\)", text):
            return cls(latest=0, specific=tuple(sorted({int(version) for version in match[1].split(",")})))
        raise ConfigError(f"version_policy = {text!r}, expected 'latest(2)', 'all' or 'specific(1, 3)'")

    def __str__(self) -> str:
        if self.specific:
            return f"specific({', '.join(map(str, self.specific))})"
        return f"latest({self.latest})" if self.latest else "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model's `model.toml`. Nothing in it is needed."""

    version_policy: VersionPolicy = option(
        VersionPolicy(), "Which versions serve: latest(N) that load, all, or specific(V, ...)."
    )
    slo_ms: float = option(
        0.0, "Answer within so long of a request's arrival: a target, not a deadline. 0: as soon as can be.",
        minimum=0, maximum=3_600_000,
    )  # fmt: skip
    batching: BatchingConfig = option(BatchingConfig(), "")
    instances: InstancesConfig = option(InstancesConfig(), "")
    session: SessionConfig = option(SessionConfig(), "")
    drift: DriftConfig = option(DriftConfig(), "")
    pipeline: PipelineConfig = option(PipelineConfig(), "")


T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of bounded length."""
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
        if len(text) > CONFIG_BYTES_MAX:
            raise ConfigError(f"{path}: longer than {CONFIG_BYTES_MAX} bytes; this cannot be a configuration")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # numbers too long and tables too deep are not TOMLDecodeErrors
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def load_model_config(path: Path) -> ModelConfig:
    """Read a `model.toml`; a missing file means the defaults."""
    try:
        if not path.exists():
            return ModelConfig()
        return build(ModelConfig, read_toml(path))
    except OSError as error:  # a folder that may not be searched
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ConfigError as error:
        prefix = "" if str(error).startswith(str(path)) else f"{path}: "
        raise ConfigError(f"{prefix}{error}") from error


def build(cls: type[T], values: Mapping[str, Any], *, table: str = "") -> T:
    """Make a configuration of parsed values, checking every key, type and bound."""
    fields = {item.name: item for item in dataclasses.fields(cast("Any", cls))}
    where = f"[{table}] " if table else ""
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{where}unknown key '{key}'{nearest(key, fields)}")
        arguments[key] = _convert(fields[key], value, where)
    return cls(**arguments)


def without_effect(config: ServerConfig) -> list[str]:
    """Name the options that were set and that the chosen transport does not know."""
    return [
        item.name
        for item in dataclasses.fields(config)
        if item.metadata.get("transport", config.transport) != config.transport
        and getattr(config, item.name) != item.default
    ]


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name is meant, or list them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def _convert(item: dataclasses.Field[Any], value: Any, where: str) -> Any:
    kind: Any = item.type
    if dataclasses.is_dataclass(kind) and kind is not VersionPolicy:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}{item.name} = {value!r}, expected a table [{item.name}]")
        return build(cast("type[Any]", kind), value, table=item.name)
    try:
        result = _typed(kind, value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}{item.name} = {value!r}, expected {_type_name(kind)}") from None
    _check_rules(item, result, where)
    return result


def _typed(kind: Any, value: Any) -> Any:
    """Convert a TOML value or a string to the field's type."""
    if kind is VersionPolicy:
        return VersionPolicy.parse(str(value))
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TypeError
        return tuple(_typed(get_args(kind)[0], element) for element in value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is (dict if kind == Table else kind):
        return value
    if isinstance(value, str) and kind in {int, float}:
        return kind(value)
    raise TypeError


def _check_rules(item: dataclasses.Field[Any], value: Any, where: str) -> None:
    rules = item.metadata
    minimum, maximum, choices = rules.get("minimum"), rules.get("maximum"), rules.get("choices")
    if minimum is not None and not value >= minimum:  # not <, so that NaN is refused too
        raise ConfigError(f"{where}{item.name} = {value}, expected at least {minimum}")
    if maximum is not None and not value <= maximum:
        raise ConfigError(f"{where}{item.name} = {value}, expected at most {maximum}")
    if choices is not None and value not in choices:
        raise ConfigError(f"{where}{item.name} = {value!r}, expected one of {', '.join(choices)}")


def _type_name(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list of {_type_name(get_args(kind)[0])}"
    if kind == Table:
        return "tables"
    return {int: "a whole number", float: "a number", str: "a string", bool: "true or false", Path: "a path"}[kind]
