"""A package takes over an alias in real servers: good ones are promoted, bad ones sent back, whatever dies."""

import dataclasses
import hashlib
import os
import signal

import pytest

from serving.registry.client import Registry
from serving.release.rollout import State
from serving.release.rollouts import Rollouts
from tests.support.askers import FAILED, Asker, answered, asking
from tests.support.registries import OPEN, version, write_package
from tests.support.rollouts import (
    PRODUCTION,
    QUICK,
    STEP,
    current,
    events,
    looks,
    over,
    registry_of_three,
    routed,
    start,
)
from tests.support.servers import server_process, server_thread


@pytest.fixture
def place(tmp_path):
    return registry_of_three(tmp_path)


@pytest.fixture
def options(place, tmp_path, transport):
    return {"registry": str(place), "model": ("affine@production",), "registry_cache": str(tmp_path / "cache"),
            "registry_interval_s": 0.02, **transport}  # fmt: skip


def test_a_good_package_goes_through_shadow_and_canary_and_is_promoted(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server, asking(server.address) as askers:
        start(place, 2, QUICK)
        assert over(place).state is State.PROMOTED
        server.wait_until(lambda: not server.server._repository.routings)
        for asker in askers:
            asker.stop()
        assert Asker(server.address, "late").ask() == "2"
        assert server.call(lambda: server.in_flight) == 0
    found = answered(askers)
    assert set(found) == {"1", "2"}, "nobody noticed anything but another version"
    assert events(place) == ["promote", "start", "step", "step", "promote"]
    with Registry.open(str(place)) as registry:
        assert registry.aliases() == {PRODUCTION: 2}
        evidence = registry.history()[-1].facts["evidence"]
        assert evidence["canary"]["requests"] > 0
        assert set(evidence["against"]) == {"errors", "p50", "p90"}
        assert registry.verify().findings == ()


def test_a_package_that_fails_is_sent_back_by_the_shadow_and_no_client_sees_it(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server, asking(server.address, value=20.0) as askers:
        start(place, 3, QUICK)
        ended = over(place)
        server.wait_until(lambda: server.server._repository.readings() == {})
    assert (ended.state, ended.why) == (State.ROLLED_BACK, "errors got worse")
    assert set(answered(askers)) == {"1"}
    assert events(place) == ["promote", "start", "roll back"]


def test_a_canary_that_fails_is_rolled_back_and_only_its_share_saw_it(place, tmp_path, options):
    config = dataclasses.replace(QUICK, shadow_requests_per_s=0, steps=(0.25,))
    with server_thread(tmp_path / "none", **options) as server, asking(server.address, value=20.0) as askers:
        start(place, 3, config)
        ended = over(place)
        server.wait_until(lambda: not server.server._repository.routings)
        assert {Asker(server.address, "late", value=20.0).ask(f"{n}") for n in range(50)} == {"1"}
    assert (ended.state, ended.why) == (State.ROLLED_BACK, "errors got worse")
    found = answered(askers)
    assert 0 < found[FAILED] < found["1"]
    with Registry.open(str(place)) as registry:
        evidence = registry.history()[-1].facts["evidence"]
        assert evidence["canary"]["errors"] > 0 == evidence["control"]["errors"]
        assert registry.aliases() == {PRODUCTION: 1}


def test_requests_stick_to_an_arm_by_header_before_id_and_a_named_version_is_never_routed(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server:
        start(place, 2, STEP)
        routed(server)
        anyone = Asker(server.address, "anyone")
        by_id = {f"id-{n}": anyone.ask(f"id-{n}") for n in range(80)}
        assert set(by_id.values()) == {"1", "2"}
        assert {each: anyone.ask(each) for each in by_id} == by_id
        assert {anyone.ask(each, version="1") for each in by_id} == {"1"}
        by_header = {}
        for n in range(40):
            asker = Asker(server.address, "header", header=f"user-{n}")
            found = {asker.ask(f"id-{k}") for k in range(4)}
            assert len(found) == 1, "the header counts, whatever the id"
            by_header[n] = found.pop()
            asker.stop()
        assert set(by_header.values()) == {"1", "2"}
        without = [anyone.ask() for _ in range(200)]
        assert 20 < without.count("2") < 80, "a quarter of what has no key"
        readings = server.call(server.server._repository.readings)["affine"]
        assert readings.canary.requests == sum(v == "2" for v in (*by_id.values(), *by_id.values(), *without)) + 4 * (
            list(by_header.values()).count("2")
        )
        assert readings.control.requests > 20
        anyone.stop()


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "no ids"])
def test_on_the_native_transport_routed_requests_stay_on_the_compiled_path(place, tmp_path, options, ids):
    if options["transport"] != "native":
        pytest.skip("there is no compiled path")
    with server_thread(tmp_path / "none", **options) as server:
        start(place, 2, STEP)
        routed(server)
        ordinary = []
        server.call(lambda: setattr(server.server._grpc._intake._data_plane, "infer", ordinary.append))
        asker = Asker(server.address, "one", header="user-1")
        found = {asker.ask(f"id-{n}" if ids else "") for n in range(30)}
        anyone = Asker(server.address, "two")
        found |= {anyone.ask(f"id-{n}" if ids else "") for n in range(100)}
        assert found == {"1", "2"}
        assert ordinary == []
        asker.stop()
        anyone.stop()


def test_a_server_that_never_looks_again_takes_no_part(place, tmp_path, options):
    start(place, 2, STEP)
    with server_thread(tmp_path / "none", **{**options, "registry_interval_s": 0.0}) as server:
        asker = Asker(server.address, "one")
        assert {asker.ask(f"id-{n}") for n in range(50)} == {"1"}
        asker.stop()
    assert not (place / "rollouts").exists()


def test_another_process_routes_the_same_ids_the_same_way(place, tmp_path, options):
    start(place, 2, STEP)
    found = []
    for name in ("one", "two"):
        others = {**options, "registry_cache": str(tmp_path / name)}
        with server_thread(tmp_path / "none", **others) as server:
            routed(server)
            asker = Asker(server.address, name)
            found.append([asker.ask(f"id-{n}") for n in range(60)])
            asker.stop()
    assert found[0] == found[1]


def test_a_server_that_is_killed_leaves_a_rollout_that_a_restart_takes_up(place, tmp_path, transport):
    arguments = ["--registry", str(place), "--model", "affine@production", "--registry-cache", str(tmp_path / "cache"),
                 "--registry-interval-s", "0.02", "--transport", transport["transport"]]  # fmt: skip
    start(place, 2, dataclasses.replace(QUICK, shadow_requests_per_s=0, steps=(0.3, 0.5)))
    with server_process(tmp_path / "none", *arguments) as server:
        server.wait_for_log(r"rolling out package 2, step 1 of 2: canary 0\.3")
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    assert current(place).state is State.RUNNING
    with server_process(tmp_path / "none", *arguments) as server, asking(server.address) as askers:
        assert over(place).state is State.PROMOTED
    assert FAILED not in answered(askers)


def test_of_two_servers_one_judges_both_are_judged_by_and_the_other_takes_over(place, tmp_path, options):
    names = ("one", "two")
    each = [{**options, "registry_cache": str(tmp_path / name)} for name in names]
    start(place, 2, STEP)
    with server_thread(tmp_path / "none", **each[1]) as second:
        with server_thread(tmp_path / "none", **each[0]) as first:
            routed(first)
            routed(second)
            directors = [server.server._aliases._rollouts[0].director for server in (first, second)]
            first.wait_until(lambda: any(director._watched.lock for director in directors))
            assert sum(director._watched.lock is not None for director in directors) == 1
            with asking(first.address, 1), asking(second.address, 1):
                wait_for_files(place, 2)
        second.wait_until(lambda: directors[1]._watched.lock is not None)
        second.wait_until(lambda: len(directors[1]._watched.read_bytes) == 2)


def wait_for_files(place, count):
    for _ in looks():
        if len(list((place / "rollouts").glob("*/*.jsonl"))) >= count:
            return
    raise AssertionError("the servers have written nothing down")


def test_a_package_that_one_server_cannot_load_is_sent_back(place, tmp_path, options):
    with Registry.open(str(place)) as registry:
        registry.push(write_package(tmp_path / "bad", 4, model=b"not a model"))
    with server_thread(tmp_path / "none", **options) as server:
        start(place, 4, QUICK)
        ended = over(place)
        assert ended.state is State.ROLLED_BACK
        assert ended.why.startswith("a server cannot serve it: ")
        assert Asker(server.address, "late").ask() == "1"


def test_a_package_that_the_registry_has_damaged_is_sent_back(place, tmp_path, options):
    with Registry.open(str(place)) as registry:
        model = registry.package(version(2)).model
    (place / "store" / "blobs" / "sha256" / hashlib.sha256(model).hexdigest()).write_bytes(b"x" * len(model))
    with server_thread(tmp_path / "none", **options) as server:
        start(place, 2, QUICK)
        ended = over(place)
        assert ended.state is State.ROLLED_BACK
        assert ended.why.startswith("a server cannot serve it: ")
        assert Asker(server.address, "late").ask() == "1"


def test_a_copy_of_the_package_that_is_damaged_in_the_cache_is_pulled_again(place, tmp_path, options):
    start(place, 2, STEP)
    for _ in ("pulls it", "finds it damaged"):
        with server_thread(tmp_path / "none", **options) as server:
            routed(server)
        (index,) = (tmp_path / "cache").glob("*/affine@production.rollout/2-*/index.json")
        index.write_bytes(b"{}")
    assert current(place).state is State.RUNNING


def test_without_a_registry_everything_serves_but_the_canary_only_for_a_while(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server, asking(server.address) as askers:
        start(place, 2, STEP)
        routed(server)
        place.rename(tmp_path / "away")
        director = server.server._aliases._rollouts[0].director
        server.wait_until(lambda: director._away_since_ns is not None)
        assert "affine" in server.server._repository.routings
        director._away_since_ns -= int(60e9)
        server.wait_until(lambda: not server.server._repository.routings)
        assert {Asker(server.address, "late").ask(f"{n}") for n in range(50)} == {"1"}
        (tmp_path / "away").rename(place)
        routed(server)
    assert FAILED not in answered(askers)
    assert current(place).state is State.RUNNING


def test_a_mistake_of_ours_leaves_no_canary_without_a_judge_for_long(place, tmp_path, options, monkeypatch):
    with server_thread(tmp_path / "none", **options) as server, asking(server.address) as askers:
        start(place, 2, STEP)
        routed(server)
        director = server.server._aliases._rollouts[0].director
        with monkeypatch.context() as patched:
            patched.setattr(type(director), "look", lambda *_: 1 / 0)
            server.wait_until(lambda: director._away_since_ns is not None)
            director._away_since_ns -= int(60e9)
            server.wait_until(lambda: not server.server._repository.routings)
        routed(server)
    assert FAILED not in answered(askers)


def test_two_servers_may_share_their_cache(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as first, server_thread(tmp_path / "none", **options) as second:
        with asking(first.address, 1) as ones, asking(second.address, 1) as others:
            for config in (STEP, QUICK):
                start(place, 2, config)
                routed(first)
                routed(second)
                if config is STEP:
                    with Registry.open(str(place)) as registry:
                        Rollouts(registry).abort(PRODUCTION)
                    first.wait_until(lambda: not first.server._repository.routings)
            assert over(place).state is State.PROMOTED
            for server in (first, second):
                server.wait_until(lambda server=server: not server.server._repository.routings)
            assert {Asker(each.address, "late").ask() for each in (first, second)} == {"2"}
        wait_until_gone(tmp_path, "*/affine@production.rollout")
    assert set(answered([*ones, *others])) == {"1", "2"}


def wait_until_gone(folder, pattern):
    for _ in looks():
        if not list((folder / "cache").glob(pattern)):
            return
    raise AssertionError("what a rollout needed stays in the cache")


def test_a_pause_sends_everybody_to_production_and_so_does_an_abort(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server, Registry.open(str(place)) as registry:
        rollouts = Rollouts(registry)
        start(place, 2, STEP)
        for stop in (rollouts.pause, rollouts.abort):
            routed(server)
            stop(PRODUCTION)
            server.wait_until(lambda: not server.server._repository.routings)
            assert {Asker(server.address, "late").ask(f"{n}") for n in range(50)} == {"1"}
            if stop == rollouts.pause:
                rollouts.resume(PRODUCTION)


def test_an_alias_that_a_person_moves_ends_the_rollout_without_a_failed_request(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server, asking(server.address) as askers:
        start(place, 2, STEP)
        routed(server)
        with Registry.open(str(place)) as registry:
            registry.push(write_package(tmp_path / "5", 4))
            registry.promote(version(4), "production", gate=OPEN)
        server.wait_until(lambda: not server.server._repository.routings)
        assert Asker(server.address, "late").ask() == "4"
    assert FAILED not in answered(askers)
    assert current(place).state is State.SUPERSEDED


def test_a_model_that_is_unloaded_has_no_arms_either(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server:
        start(place, 2, STEP)
        routed(server)
        server.server._repository.unload("affine")
        server.wait_until(lambda: not server.server._repository.routings)
