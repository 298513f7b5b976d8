from pathlib import Path

import pytest

from serving.errors import ConfigError
from serving.registry.place import default_folder, folder_of, is_mlflow, store_uri


def test_the_default_is_in_the_users_data_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_folder({}) == Path("/home/ada/.local/share/penstock/registry")
    assert default_folder({"XDG_DATA_HOME": "/data"}) == Path("/data/penstock/registry")
    assert default_folder({"XDG_DATA_HOME": "relative"}) == Path("/home/ada/.local/share/penstock/registry")


@pytest.mark.parametrize("uri", ["/srv/my registry", "file:///srv/my%20registry", "file://localhost/srv/my%20registry"])
def test_a_registry_is_a_folder_or_a_file_uri(uri):
    assert folder_of(uri) == Path("/srv/my registry")


@pytest.mark.parametrize("uri", ["s3://bucket/models", "https://example.com/x", "file://host/x"])
def test_another_uri_is_refused_with_where_it_belongs(uri):
    with pytest.raises(ConfigError, match=r"store = .* in the folder's registry\.toml"):
        folder_of(uri)


def test_an_mlflow_server_is_no_folder_and_the_error_says_what_it_is_for():
    assert is_mlflow("mlflow+https://host")
    assert not is_mlflow("/srv/mlflow+http")
    with pytest.raises(ConfigError, match="only served from, with --model NAME@ALIAS"):
        folder_of("mlflow+http://host:5000")


def test_blobs_lie_beside_the_catalogue_unless_the_settings_say_otherwise(tmp_path):
    assert store_uri(tmp_path) == f"{tmp_path}/store"
    (tmp_path / "registry.toml").write_text('store = "s3://bucket/models"')
    assert store_uri(tmp_path) == "s3://bucket/models"
    (tmp_path / "registry.toml").write_text('store = "../blobs"')
    assert Path(store_uri(tmp_path)).resolve() == tmp_path.parent / "blobs"


@pytest.mark.parametrize(
    ("text", "message"), [("stroe = 'x'", "did you mean 'store'"), ("store = 7", "expected a path")]
)
def test_settings_that_cannot_be_used_are_named(tmp_path, text, message):
    (tmp_path / "registry.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        store_uri(tmp_path)
