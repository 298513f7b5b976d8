import pytest

from serving.controlplane import ControlPlane
from serving.errors import Forbidden
from serving.repository.entry import IndexEntry
from serving.repository.lifecycle import State

LOCAL = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]
REMOTE = ["10.0.0.1", "192.168.1.1", "0.0.0.0", "::", "::ffff:10.0.0.1", "fe80::1", "8.8.8.8", "", "localhost", None]  # noqa: S104


@pytest.mark.parametrize("host", LOCAL)
def test_loopback_lets_the_servers_own_machine_in(host):
    ControlPlane(None, "loopback").check_access(host)


@pytest.mark.parametrize("host", REMOTE)
def test_loopback_keeps_everyone_else_out(host):
    with pytest.raises(Forbidden, match=r"open to peers on the server's own machine .--control-plane loopback"):
        ControlPlane(None, "loopback").check_access(host)


@pytest.mark.parametrize("host", LOCAL + REMOTE)
def test_off_keeps_everyone_out_and_on_nobody(host):
    ControlPlane(None, "on").check_access(host)
    with pytest.raises(Forbidden, match=r"open to nobody .--control-plane off"):
        ControlPlane(None, "off").check_access(host)


@pytest.mark.parametrize("host", REMOTE)
def test_a_named_client_may_from_anywhere(host):
    plane = ControlPlane(None, "loopback", ["ops", "ci.example"])
    plane.check_access(host, ("somebody", "ci.example"))
    plane.check_access(host, ("ops",))
    for names in ((), ("Ops",), ("ci.example.org", "*.example", "ci")):
        with pytest.raises(Forbidden, match="open to peers on the server's own machine and named clients "):
            plane.check_access(host, names)


def test_a_name_is_nothing_where_no_name_is_listed_and_nobody_may_when_it_is_off():
    with pytest.raises(Forbidden, match=r"own machine \(--control-plane loopback\); your certificate names ops, ci$"):
        ControlPlane(None, "loopback").check_access("10.0.0.1", ("ops", "ci"))
    with pytest.raises(Forbidden, match=r"open to nobody \(--control-plane off\)$"):
        ControlPlane(None, "off", ["ops"]).check_access("127.0.0.1", ("ops",))


def test_the_index_can_be_of_ready_versions_only():
    class Repository:
        def index(self):
            return [IndexEntry("a", "1", State.READY, ""), IndexEntry("a", "2", State.FAILED, "broken")]

    plane = ControlPlane(Repository(), "on")
    assert [entry.version for entry in plane.index(ready_only=False)] == ["1", "2"]
    assert [entry.version for entry in plane.index(ready_only=True)] == ["1"]
