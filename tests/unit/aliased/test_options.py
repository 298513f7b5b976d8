from pathlib import Path

from serving.aliased import aliases_of, cache_folder, models_of
from serving.config import ServerConfig
from serving.registry.names import Alias


def test_the_served_name_is_the_models():
    config = ServerConfig(model=("fraud@production", "churn@canary"))
    assert aliases_of(config) == [Alias("fraud", "production"), Alias("churn", "canary")]
    assert models_of(config) == ["fraud", "churn"]
    assert models_of(ServerConfig()) == []
    assert models_of(ServerConfig(registry="/srv/one")) == [], "the variable may be set for `penstock registry` alone"


def test_a_model_may_be_written_as_mlflow_writes_it():
    assert aliases_of(ServerConfig(model=("models:/fraud@production",))) == [Alias("fraud", "production")]


def test_mlflow_servers_have_caches_of_their_own_from_whatever_folder(tmp_path, monkeypatch):
    one = cache_folder("/mine", "mlflow+http://one:5000")
    monkeypatch.chdir(tmp_path)
    assert cache_folder("/mine", "mlflow+http://one:5000") == one != cache_folder("/mine", "mlflow+http://two:5000")


def test_registries_have_caches_of_their_own(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    one, other = (cache_folder("", Path(place), {}) for place in ("/srv/one", "/srv/other"))
    assert one.parent == other.parent == Path("/home/ada/.cache/penstock/packages")
    assert one != other
    assert cache_folder("", Path("/srv/one"), {"XDG_CACHE_HOME": "/cache"}).parent == Path("/cache/penstock/packages")
    assert cache_folder("/mine", Path("/srv/one"), {}) == Path("/mine") / one.name
