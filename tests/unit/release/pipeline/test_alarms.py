import dataclasses

import pytest

from serving.errors import ConfigError
from serving.registry.record import GENESIS, Record
from serving.release.pipeline.alarms import alarm_of, is_due

FACTS = {"model": "m", "version": "3", "subject": "rows", "evidence": 4.25, "rows": 900,
         "features": [{"name": "age"}, {"name": "income"}]}  # fmt: skip
ALARM = alarm_of(FACTS, "webhook")
AT = "2026-01-01T00:00:00.000+00:00"
AT_S = 1_767_225_600.0


def record(alarm=ALARM, kind="drift", at=AT):
    return Record(1, at, "ada", kind, alarm.model, alarm.facts(), GENESIS)


def test_an_alarm_is_read_from_what_a_server_posts():
    assert (ALARM.model, ALARM.version, ALARM.feature, ALARM.rows, ALARM.evidence) == ("m", "3", "age", 900, 4.25)
    assert str(ALARM) == "m/3: rows have drifted, evidence 10^4.2, strongest age"
    assert alarm_of({**FACTS, "features": [], "evidence": None}, "x").facts().keys().isdisjoint({"evidence"})


@pytest.mark.parametrize("evidence", [float("inf"), float("nan")])
def test_evidence_that_no_record_can_hold_does_not_keep_an_alarm_from_being_one(evidence):
    assert alarm_of({**FACTS, "evidence": evidence}, "x") == dataclasses.replace(ALARM, evidence=None, source="x")


@pytest.mark.parametrize("facts", [
    {}, {**FACTS, "model": 3}, {**FACTS, "features": 7}, {**FACTS, "rows": "many"}, {**FACTS, "features": [{}]},
    {**FACTS, "rows": float("inf")}, {**FACTS, "evidence": 10**400}, {**FACTS, "evidence": "3"},
])  # fmt: skip
def test_what_is_no_alarm_is_refused(facts):
    with pytest.raises(ConfigError, match="no alarm of drift"):
        alarm_of(facts, "x")


def test_an_alarm_about_a_version_starts_one_run():
    assert is_due(ALARM, [], now_s=AT_S, again_s=0)
    assert not is_due(ALARM, [record()], now_s=AT_S + 1e6, again_s=0)


def test_it_starts_another_one_after_the_time():
    assert not is_due(ALARM, [record()], now_s=AT_S + 99, again_s=100)
    assert is_due(ALARM, [record()], now_s=AT_S + 100, again_s=100)


def test_other_versions_subjects_and_records_do_not_count():
    others = [record(dataclasses.replace(ALARM, version="2")), record(dataclasses.replace(ALARM, subject="errors")),
              record(kind="note")]  # fmt: skip
    assert is_due(ALARM, others, now_s=AT_S, again_s=0)
