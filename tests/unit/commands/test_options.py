import dataclasses
import logging
from pathlib import Path
from typing import get_origin

import click
import pytest
from click.testing import CliRunner

from serving.__main__ import cli
from serving.commands import serve
from serving.commands.options import environment_name, resolve, unknown_variables
from serving.config import ServerConfig
from serving.errors import ConfigError

NEEDED = {
    "tls_cert": ("tls_key",),
    "tls_key": ("tls_cert",),
    "tls_client_ca": ("tls_cert", "tls_key"),
    "control_plane_clients": ("tls_cert", "tls_key", "tls_client_ca"),
    "drift_webhook_key": ("drift_webhook",),
    "registry": ("model",),
}
FIELDS = dataclasses.fields(ServerConfig)
KUBERNETES = [
    "PENSTOCK_SERVICE_HOST", "PENSTOCK_SERVICE_PORT", "PENSTOCK_SERVICE_PORT_GRPC", "PENSTOCK_SERVICE_PORT_HTTP",
    "PENSTOCK_PORT", "PENSTOCK_PORT_8001_TCP", "PENSTOCK_PORT_8001_TCP_ADDR", "PENSTOCK_PORT_8001_TCP_PORT",
    "PENSTOCK_PORT_8001_TCP_PROTO",
]  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    """Run `penstock serve` with arguments and variables up to the server; return the configuration it would get."""
    monkeypatch.setattr(serve.logs, "set_up", lambda *_: None)

    def run(*arguments, **variables):
        started = []
        monkeypatch.setattr(serve, "serve", started.append)
        monkeypatch.setattr(serve, "environment", lambda: variables)
        result = CliRunner().invoke(cli, ["serve", *arguments], env=variables, standalone_mode=False)
        if result.exception:
            raise result.exception
        return started[0]

    return run


def test_nothing_given_means_the_defaults(run):
    assert run() == ServerConfig()


def test_a_registry_of_which_nothing_is_served_is_refused_unless_its_variable_is_for_other_commands(run, tmp_path):
    (tmp_path / "penstock.toml").write_text('registry = "/srv/registry"')
    for arguments in (["--registry", "/srv/registry"], ["--config", str(tmp_path / "penstock.toml")]):
        with pytest.raises(ConfigError, match="no model says what to serve"):
            run(*arguments)
    assert run(PENSTOCK_REGISTRY="/srv/registry").registry == "/srv/registry"


def test_a_flag_beats_the_environment_which_beats_the_file(run, tmp_path):
    file = tmp_path / "penstock.toml"
    file.write_text("grpc_port = 1\nhttp_port = 1\nhost = '10.0.0.1'")
    config = run(
        "--grpc-port", "3", "--config", str(file), PENSTOCK_GRPC_PORT="2", PENSTOCK_HTTP_PORT="2"
    )  # fmt: skip
    assert (config.grpc_port, config.http_port, config.host) == (3, 2, "10.0.0.1")


def test_the_file_can_be_named_in_the_environment(run, tmp_path):
    file = tmp_path / "penstock.toml"
    file.write_text("grpc_port = 7")
    assert run(PENSTOCK_CONFIG=str(file)).grpc_port == 7


@pytest.mark.parametrize("item", FIELDS, ids=lambda item: item.name)
def test_every_option_is_a_flag_and_a_variable(run, item):
    other = {
        "models": "elsewhere", "host": "0.0.0.0", "control_plane": "off", "log_format": "json", "log_level": "debug",  # noqa: S104
        "user_code": "on", "triton_metrics": "on", "trace_ratio": "0.5", "transport": "native",
    }.get(item.name, str(max(7, item.metadata.get("minimum", 0))))  # fmt: skip
    expected = (other,) if get_origin(item.type) is tuple else item.type(other)
    needed = {environment_name(name): "x" for name in NEEDED.get(item.name, ())}
    assert getattr(run(f"--{item.name.replace('_', '-')}", other, **needed), item.name) == expected
    assert getattr(run(**needed, **{environment_name(item.name): other}), item.name) == expected


def test_a_list_is_comma_separated_in_a_flag_and_a_variable_and_a_list_in_a_file(run, tmp_path):
    tls = {"PENSTOCK_TLS_CERT": "c", "PENSTOCK_TLS_KEY": "k", "PENSTOCK_TLS_CLIENT_CA": "a"}
    file = tmp_path / "penstock.toml"
    file.write_text('control_plane_clients = ["a", "b c"]')
    for config in (
        run("--control-plane-clients", "a, b c", **tls),
        run(PENSTOCK_CONTROL_PLANE_CLIENTS=",a,b c,", **tls),
        run("--config", str(file), **tls),
    ):
        assert config.control_plane_clients == ("a", "b c")
    assert run("--control-plane-clients", "", "--config", str(file), **tls).control_plane_clients == ()
    file.write_text('control_plane_clients = "a, b c"')
    with pytest.raises(ConfigError, match=r"control_plane_clients = 'a, b c', expected a list"):
        run("--config", str(file), **tls)


@pytest.mark.parametrize("item", FIELDS, ids=lambda item: item.name)
def test_help_shows_every_option_with_its_variable_and_default(item):
    text = " ".join(
        CliRunner().invoke(cli, ["serve", "--help"], terminal_width=200, max_content_width=200).output.split()
    )
    assert f"--{item.name.replace('_', '-')}" in text
    assert environment_name(item.name) in text
    assert " ".join(item.metadata["help"].split()) in text
    assert f"[default: {'none' if item.default in {'', ()} else item.default}]" in text


def test_the_same_mistake_gets_the_same_error_from_a_flag_a_variable_and_a_file(run, tmp_path):
    file = tmp_path / "penstock.toml"
    file.write_text("grpc_port = 70000")
    for arguments, variables in (
        (["--grpc-port", "70000"], {}),
        ([], {"PENSTOCK_GRPC_PORT": "70000"}),
        (["--config", str(file)], {}),
    ):
        with pytest.raises(ConfigError, match=r"^grpc_port = 70000, expected at most 65535$"):
            run(*arguments, **variables)


def test_a_word_that_is_no_choice_is_refused(run):
    with pytest.raises(click.BadParameter, match="is not one of 'loopback', 'on', 'off'"):
        run("--control-plane", "maybe")


def test_a_missing_file_is_one_line(tmp_path):
    path = tmp_path / "gone.toml"
    with pytest.raises(ConfigError, match=f"^{path}: No such file or directory$"):
        resolve({}, path)


def test_a_flag_that_was_not_given_does_not_hide_the_file(tmp_path):
    file = tmp_path / "penstock.toml"
    file.write_text("models = 'a'")
    assert resolve({"models": None}, file).models == Path("a")


# ---- variables that nobody reads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PENSTOCK_GRPC_PROT", "PENSTOCK_GRPC_PORT"),
        ("PENSTOCK_MODLES", "PENSTOCK_MODELS"),
        ("PENSTOCK_CONTROLPLANE", "PENSTOCK_CONTROL_PLANE"),
        ("PENSTOCK_ADRESS", "PENSTOCK_ADDRESS"),
        ("PENSTOCK_TLS_CRT", "PENSTOCK_TLS_CERT"),
    ],
)
def test_a_near_miss_is_named_with_what_was_meant(name, meant):
    assert unknown_variables({name: "x"}) == [f"unknown variable {name}; did you mean '{meant}'?"]


@pytest.mark.parametrize(
    "name", [*KUBERNETES, "PENSTOCK", "PENSTOCK_IMAGE_DIGEST", "HOME", "PENSTOCK_HOST", "PENSTOCK_TLS_CA"]
)
def test_other_variables_are_left_alone(name):
    assert unknown_variables({name: "x"}) == []


def test_serve_warns_of_a_near_miss(run, caplog):
    with caplog.at_level(logging.WARNING):
        run(PENSTOCK_GRPC_PROT="9")
    assert "unknown variable PENSTOCK_GRPC_PROT" in caplog.text


@pytest.mark.parametrize(
    "command",
    [
        "drift report", "drift watch", "drift pause", "drift resume", "drift feedback --labels -", "models load",
        "models unload",
    ],
)  # fmt: skip
def test_a_command_about_one_model_asks_no_server_without_its_name(command):
    result = CliRunner().invoke(cli, [*command.split(), "--address", "127.0.0.1:1"])
    assert (result.exit_code, "Missing option '--model'" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("drift pause --model m", "--for-s"),
        ("drift watch --model m", "--interval-s"),
        ("models latency", "--for-s"),
        ("models latency", "--quantile"),
        ("quickstart", "--burst-s"),
        ("bench overhead", "--slice-s"),
    ],
)
def test_nan_is_within_no_range(command, option):
    result = CliRunner().invoke(cli, [*command.split(), option, "nan"])
    assert (result.exit_code, f"Invalid value for '{option}': 'nan' is not a number." in result.output) == (2, True)
