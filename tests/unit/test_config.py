import dataclasses
import re
from pathlib import Path

import pytest

from serving.config import (
    CONFIG_BYTES_MAX,
    BatchingConfig,
    DriftConfig,
    InstancesConfig,
    ModelConfig,
    ServerConfig,
    SessionConfig,
    VersionPolicy,
    build,
    load_model_config,
    nearest,
    option,
    without_effect,
)
from serving.errors import ConfigError

TABLES = {
    "": ServerConfig,
    "batching": BatchingConfig,
    "instances": InstancesConfig,
    "session": SessionConfig,
    "drift": DriftConfig,
}
OPTIONS = [(table, item) for table, kind in TABLES.items() for item in dataclasses.fields(kind)]


def fields_with(rule):
    return [
        pytest.param(table, item, id=f"{table or 'server'}.{item.name}")
        for table, item in OPTIONS
        if item.metadata.get(rule) is not None
    ]


def build_one(table, name, value):
    others = {"mode": "window"} if name == "queue_delay_us_max" else {}  # it is for this mode alone
    return getattr(build(TABLES[table], {name: value, **others}, table=table), name)


@pytest.mark.parametrize(("table", "item"), fields_with("minimum"))
def test_an_option_below_its_minimum_is_refused(table, item):
    minimum = item.metadata["minimum"]
    if item.name != "queue_rows_max":  # this one has a cross-field rule besides
        assert build_one(table, item.name, item.type(minimum)) == minimum
    with pytest.raises(ConfigError, match=rf"{item.name} = .*, expected at least {minimum}"):
        build_one(table, item.name, item.type(minimum - 1))


@pytest.mark.parametrize(("table", "item"), fields_with("maximum"))
def test_an_option_above_its_maximum_is_refused(table, item):
    maximum = item.metadata["maximum"]
    if item.name != "batch_rows_max":  # this one has a cross-field rule besides
        assert build_one(table, item.name, item.type(maximum)) == maximum
    with pytest.raises(ConfigError, match=rf"{item.name} = .*, expected at most {maximum}"):
        build_one(table, item.name, item.type(maximum + 1))


@pytest.mark.parametrize(("table", "item"), fields_with("choices"))
def test_an_option_takes_its_choices_and_nothing_else(table, item):
    for choice in item.metadata["choices"]:
        assert build_one(table, item.name, choice) == choice
    with pytest.raises(ConfigError, match=f"{item.name} = 'nonsense', expected one of .*{item.metadata['choices'][0]}"):
        build_one(table, item.name, "nonsense")


@pytest.mark.parametrize(
    ("table", "item"), [pytest.param(table, item, id=f"{table or 'server'}.{item.name}") for table, item in OPTIONS]
)
def test_an_option_of_the_wrong_type_is_refused_by_name(table, item):
    with pytest.raises(ConfigError, match=rf"{item.name} = \{{'a': 1\}}, expected (a|true)"):
        build_one(table, item.name, {"a": 1})


@pytest.mark.parametrize(
    ("table", "item"), [pytest.param(table, item, id=f"{table or 'server'}.{item.name}") for table, item in OPTIONS]
)
def test_every_option_has_a_help_text_and_keeps_to_its_own_bounds(table, item):
    assert item.metadata["help"].endswith(".")
    default = list(item.default) if isinstance(item.default, tuple) else item.default
    assert build_one(table, item.name, str(default) if item.type is Path else default) == item.default


@pytest.mark.parametrize("value", [True, 1.5, "1.5", "0x10", "", None])
def test_a_whole_number_is_neither_a_flag_nor_a_fraction(value):
    with pytest.raises(ConfigError, match=r"grpc_port = .*, expected a whole number"):
        build(ServerConfig, {"grpc_port": value})


@pytest.mark.parametrize("value", ["nan", float("nan")])
def test_not_a_number_is_no_duration(value):
    with pytest.raises(ConfigError, match="drain_timeout_s = nan"):
        build(ServerConfig, {"drain_timeout_s": value})


def test_numbers_come_as_text_from_flags_and_the_environment():
    config = build(ServerConfig, {"grpc_port": "9", "poll_interval_s": "2.5", "models": "a/b"})
    assert (config.grpc_port, config.poll_interval_s, config.models) == (9, 2.5, Path("a/b"))


def test_a_whole_number_is_a_duration_too():
    value = build(ServerConfig, {"poll_interval_s": 2}).poll_interval_s
    assert value == 2
    assert type(value) is float


def test_an_unknown_key_is_refused_with_the_nearest_known_name():
    with pytest.raises(
        ConfigError, match=r"^\[batching\] unknown key 'batch_row_max'; did you mean 'batch_rows_max'\?$"
    ):
        build(ModelConfig, {"batching": {"batch_row_max": 4}})


@pytest.mark.parametrize("knob", [{"queue_delay_us_max": 50}, {"batch_rows_preferred": [4]}])
@pytest.mark.parametrize("mode", ["adaptive", "none"])
def test_a_knob_of_the_window_is_refused_in_other_modes(knob, mode):
    with pytest.raises(ConfigError, match=r'mode = "(adaptive|none)".*add mode = "window"'):
        build(ModelConfig, {"batching": {"mode": mode, **knob}})
    build(ModelConfig, {"batching": {"mode": "window", **knob}})


@pytest.mark.parametrize("rows", [0, 257])
def test_a_preferred_batch_is_one_that_may_run(rows):
    with pytest.raises(ConfigError, match="from 1 to batch_rows_max = 256"):
        build(ModelConfig, {"batching": {"mode": "window", "batch_rows_preferred": [8, rows]}})


def test_no_batch_has_more_rows_than_the_largest_one_allowed():
    batching = build(ModelConfig, {"batching": {"batch_rows_allowed": [1, 4, 16], "queue_rows_max": 16}}).batching
    assert (batching.batch_rows_allowed, batching.batch_rows_max) == ((1, 4, 16), 16)
    assert dataclasses.replace(batching) == batching


@pytest.mark.parametrize("rows", [[0, 4], [4, 1], [4, 4], [-2], [257]], ids=str)
def test_allowed_batches_ascend_and_may_run(rows):
    with pytest.raises(ConfigError, match=rf"batch_rows_allowed = {re.escape(str(rows))}, expected ascending .* 256"):
        build(ModelConfig, {"batching": {"batch_rows_allowed": rows}})


def test_allowed_batches_are_few():
    with pytest.raises(ConfigError, match="has 33 sizes, at most 32"):
        build(ModelConfig, {"batching": {"batch_rows_allowed": list(range(1, 34))}})


def test_no_batches_are_allowed_where_none_are_made():
    with pytest.raises(ConfigError, match=r'batch_rows_allowed = \[4\] is given with mode = "none"'):
        build(ModelConfig, {"batching": {"mode": "none", "batch_rows_allowed": [4]}})


def test_a_preferred_batch_is_no_larger_than_the_largest_one_allowed():
    sizes = {"batch_rows_allowed": [4, 16], "batch_rows_preferred": [32]}
    with pytest.raises(ConfigError, match="from 1 to batch_rows_max = 16"):
        build(ModelConfig, {"batching": {"mode": "window", **sizes}})


def test_an_unknown_key_that_resembles_none_is_refused_with_all_of_them():
    with pytest.raises(
        ConfigError,
        match="unknown key 'zzz'; known: batching, drift, instances, pipeline, session, slo_ms, version_policy",
    ):
        build(ModelConfig, {"zzz": 4})
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"


def test_a_table_must_be_a_table():
    with pytest.raises(ConfigError, match=r"batching = 4, expected a table \[batching\]"):
        build(ModelConfig, {"batching": 4})


def test_a_full_batch_must_fit_the_queue():
    assert BatchingConfig(batch_rows_max=8, queue_rows_max=8).queue_rows_max == 8
    with pytest.raises(ConfigError, match="queue_rows_max = 7 is below batch_rows_max = 8"):
        BatchingConfig(batch_rows_max=8, queue_rows_max=7)


@pytest.mark.parametrize("gpus", [[], [0, 1], [-1]])
def test_one_gpu_is_named(gpus):
    with pytest.raises(ConfigError, match=r"\[instances\] gpus = .*, expected one GPU number"):
        build(InstancesConfig, {"gpus": gpus}, table="instances")
    assert build(InstancesConfig, {"gpus": [3]}).gpus == (3,)


def test_a_list_is_checked_element_by_element():
    assert build(SessionConfig, {"providers": ["A", "B"]}).providers == ("A", "B")
    for value in ("A", [1], [["A"]]):
        with pytest.raises(ConfigError, match=r"providers = .*, expected a list"):
            build(SessionConfig, {"providers": value})


def test_a_mutable_default_is_our_own_mistake():
    with pytest.raises(TypeError, match="immutable"):
        option([], "A list.")


# ---- version_policy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("all", VersionPolicy(latest=0)),
        ("latest(1)", VersionPolicy()),
        ("latest(3)", VersionPolicy(latest=3)),
        ("specific(1)", VersionPolicy(latest=0, specific=(1,))),
        ("specific(3, 1,3)", VersionPolicy(latest=0, specific=(1, 3))),
        ("specific(1 , 2)", VersionPolicy(latest=0, specific=(1, 2))),
    ],
)
def test_a_version_policy_is_read_and_written_back(text, policy):
    assert VersionPolicy.parse(text) == policy
    assert VersionPolicy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    "text", ["", "latest", "latest()", "latest(0)", "latest(-1)", "latest(1) ", "specific()", "specific(1,)", "ALL",
             "specific(a)", "latest(1, 2)", "specific(9999999999999999999)", "latest(1)\n", 5, ["all"]],
)  # fmt: skip
def test_another_version_policy_is_refused_with_examples(text):
    with pytest.raises(ConfigError, match=r"version_policy = .*, expected 'latest\(2\)', 'all' or 'specific\(1, 3\)'"):
        build(ModelConfig, {"version_policy": text})


# ---- model.toml ----------------------------------------------------------------------------------------------------


def test_a_missing_model_toml_means_the_defaults(tmp_path):
    assert load_model_config(tmp_path / "model.toml") == ModelConfig()


def test_model_toml_sets_every_table(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text("""
        version_policy = "latest(2)"
        [batching]
        batch_rows_max = 8
        [instances]
        count = 2
        [session]
        providers = ["CPUExecutionProvider"]
        spinning = true
    """)
    assert load_model_config(path) == ModelConfig(
        version_policy=VersionPolicy(latest=2),
        batching=BatchingConfig(batch_rows_max=8),
        instances=InstancesConfig(count=2),
        session=SessionConfig(providers=("CPUExecutionProvider",), spinning=True),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"version_policy =", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"slow = 1", "unknown key 'slow'"),
        (b"[batching]\nbatch_rows_max = 'many'", r"\[batching\] batch_rows_max = 'many', expected a whole number"),
        (b"[batching]\nbatch_rows_max = 10000", "queue_rows_max = 4096 is below batch_rows_max = 10000"),
        (b"version_policy = 'newest'", "version_policy = 'newest'"),
        (b"a = " + b"1" * 5000, "not valid TOML"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
        (b"#" * (CONFIG_BYTES_MAX + 1), "longer than 1048576 bytes"),
    ],
    ids=["syntax", "encoding", "key", "type", "cross_field", "policy", "long_number", "deep_table", "long_file"],
)
def test_a_broken_model_toml_is_one_line_that_names_the_file(tmp_path, text, problem):
    path = tmp_path / "model.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_model_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_model_toml_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "model.toml"
    path.mkdir()
    with pytest.raises(ConfigError, match=f"^{path}: Is a directory$"):
        load_model_config(path)


def test_configurations_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerConfig().grpc_port = 1


def test_options_that_the_chosen_transport_does_not_know_are_named_when_they_were_set():
    assert without_effect(ServerConfig(transport="grpcio", inline_us_max=7, stall_timeout_s=1)) == [
        "inline_us_max", "stall_timeout_s"
    ]  # fmt: skip
    assert without_effect(ServerConfig(transport="native", inline_us_max=7)) == []
    assert without_effect(ServerConfig(transport="grpcio", connections_max=7)) == []
