"""What servers see is written where all read it, and what cannot be read is left out."""

import dataclasses
import json

import pytest

from serving.registry.names import Alias, Version
from serving.release.judge import Arm, Block
from serving.release.policy import RolloutConfig
from serving.release.rollout import Rollout
from serving.release.sightings import Sighting, Sightings

ROLLOUT = Rollout(
    position=7, alias=Alias("m", "production"), candidate=Version("m", 2), package="", control=Version("m", 1),
    control_package="", config=RolloutConfig(), salt=1, who="ada", began="", last=7,
    since="2026-11-25T10:00:00.000+00:00",
)  # fmt: skip
SEEN = Sighting(Block(Arm(10, 1, {"p50": 1.5}), Arm(9, 0, {})), differing=2)
TROUBLE = Sighting(Block(Arm(0, 0, {}), Arm(0, 0, {})), trouble="it does not load")


def test_all_servers_read_what_all_have_written(tmp_path):
    one, two = Sightings(tmp_path, ROLLOUT), Sightings(tmp_path, ROLLOUT)
    one.add("a", [SEEN])
    two.add("b", [TROUBLE])
    one.add("a", [SEEN, TROUBLE])
    assert one.all() == two.all() == [SEEN, SEEN, TROUBLE, TROUBLE]


def test_each_step_begins_anew_and_so_does_one_that_was_resumed(tmp_path):
    Sightings(tmp_path, ROLLOUT).add("a", [SEEN])
    later = dataclasses.replace(ROLLOUT, since="2026-11-25T10:00:01.000+00:00")
    for other in (dataclasses.replace(ROLLOUT, step=1), dataclasses.replace(ROLLOUT, position=8), later):
        assert Sightings(tmp_path, other).all() == []


WHOLE = json.dumps(dataclasses.asdict(SEEN)).encode()


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"[]", b'{"block": 1}', b"\xff", b"[" * 4000),
        WHOLE.replace(b'"errors": 1', b'"errors": 11'),
        WHOLE.replace(b'"p50": 1.5', b'"p50": -1.5'),
        WHOLE.replace(b'"p50": 1.5', b'"p50": NaN'),
        WHOLE.replace(b'"p50": 1.5', b'"p50": 1' + b"0" * 400),
        WHOLE.replace(b'{"p50": 1.5}', b"[1.5]"),
        WHOLE.replace(b'"requests": 10', b'"requests": 10.0'),
        WHOLE + b" " * 5000,
    ],
)
def test_a_line_that_is_none_is_not_counted(tmp_path, line):
    seen = Sightings(tmp_path, ROLLOUT)
    seen.add("a", [SEEN])
    (path,) = seen.folder.iterdir()
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert seen.all() == [SEEN]


def test_a_line_that_was_cut_off_is_not_counted(tmp_path):
    seen = Sightings(tmp_path, ROLLOUT)
    seen.add("a", [SEEN, TROUBLE])
    (path,) = seen.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert seen.all() == [SEEN]


def test_one_is_the_judge_until_it_lets_go(tmp_path):
    one, two = Sightings(tmp_path, ROLLOUT), Sightings(tmp_path, ROLLOUT)
    held = one.claim()
    assert held is not None
    assert two.claim() is None
    held.close()
    with two.claim():
        assert one.claim() is None
