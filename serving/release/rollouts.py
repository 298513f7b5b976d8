"""The verbs of rollouts: start, pause, resume, abort, and what the judge does. Each is one record of the ledger.

    with Registry.open("/srv/registry") as registry:
        rollouts = Rollouts(registry)
        rollouts.start(Version("fraud", 4), "production", policy=policy_for(registry.folder, "fraud"))
        rollouts.current(Alias("fraud", "production")).state

Starting needs what a promotion needs, a check that lets the package through, and so does the promotion at the end.
Servers that follow the alias do the rest. Whoever decides does so on what the ledger says at that moment, so two who
act at once cannot both take the same step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from serving.errors import RegistryError
from serving.registry.catalogue import Pushed
from serving.registry.client import Gate, Promotion, Registry, checked_text
from serving.registry.names import Alias, Version, check_word
from serving.registry.record import Record
from serving.release.gate import CheckedGate, check_approver
from serving.release.policy import Policy, RolloutConfig, policy_for
from serving.release.rollout import ROLLOUT, Event, Rollout, State, current, rollouts_of


class Rollouts:
    """The rollouts of one registry, which the caller owns. One thread uses it. Methods raise as those of `Registry`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def start(
        self, version: Version, alias: str, *, policy: Policy | None = None, config: RolloutConfig | None = None,
        gate: Gate | None = None, reason: str = "",
    ) -> Rollout:  # fmt: skip
        """Begin to let a package take over an alias.

        `policy` is the model's own unless given, `config` takes the place of its `[rollout]`, and `gate` of the demand
        for a check. Raises RegistryError when the gate refuses, another rollout of this alias is not over, or clients
        would see another signature.
        """
        registry = self._registry
        policy = policy or policy_for(registry.folder, version.model)
        policy = policy if config is None else dataclasses.replace(policy, rollout=config)
        let_through = gate or CheckedGate(policy)
        target = Alias(version.model, check_word("an alias", alias))
        control = self._control(version, target)
        facts = {
            "event": Event.START,
            "policy": dataclasses.asdict(policy.rollout),
            "control": {"sequence": control.sequence, "package": control.digest},
            **_because(reason),
        }

        def decide(promotion: Promotion) -> Mapping[str, Any]:
            _check_free(promotion, control.digest)
            return {**let_through(promotion), **facts}

        return self._after(target, registry.append_decided(ROLLOUT, version, decide, alias=alias))

    def current(self, alias: Alias) -> Rollout | None:
        """Return the last rollout of an alias, over or not; None when there was none."""
        return current(self._registry.history(alias.model), alias)

    def listed(self, model: str | None = None) -> list[Rollout]:
        """Return all rollouts of all models or of one, the first one first."""
        models = dict.fromkeys(record.model for record in self._registry.history(model, kind=ROLLOUT))
        return [rollout for name in models for rollout in rollouts_of(self._registry.history(name))]

    # ---- what people do --------------------------------------------------------------------------------------------

    def pause(self, alias: Alias, *, reason: str = "") -> Rollout:
        """Send no request to the canary until `resume`. Raises RegistryError unless it is running."""
        return self._by_a_person(alias, Event.PAUSE, {State.RUNNING}, reason)

    def resume(self, alias: Alias, *, reason: str = "") -> Rollout:
        """Go on with the step that was paused, from its beginning. Raises RegistryError unless it is paused."""
        return self._by_a_person(alias, Event.RESUME, {State.PAUSED}, reason)

    def abort(self, alias: Alias, *, reason: str = "") -> Rollout:
        """End a rollout; the alias stays as it is. Raises RegistryError when it is over."""
        return self._by_a_person(alias, Event.ABORT, {State.RUNNING, State.PAUSED}, reason)

    # ---- what the judge does ---------------------------------------------------------------------------------------

    def advance(self, rollout: Rollout, why: str, evidence: Mapping[str, Any]) -> Rollout:
        """Take the next step, or promote after the last one. Raises RegistryError when somebody else has moved on."""
        if rollout.is_last:
            return self._promote(rollout, why, evidence)
        facts = {"event": Event.STEP, "step": rollout.step + 1, "evidence": dict(evidence), **_because(why)}
        return self._append(rollout, facts)

    def roll_back(self, rollout: Rollout, why: str, evidence: Mapping[str, Any]) -> Rollout:
        """End a rollout because the package is not good enough; the alias has never moved."""
        return self._append(rollout, {"event": Event.ROLL_BACK, "evidence": dict(evidence), **_because(why)})

    # ---- within ----------------------------------------------------------------------------------------------------

    def _promote(self, rollout: Rollout, why: str, evidence: Mapping[str, Any]) -> Rollout:
        """Move the alias, for the one who began the rollout, with the same demands as at its beginning."""
        policy = policy_for(self._registry.folder, rollout.alias.model)
        began = next(each for each in self._registry.history(rollout.alias.model, kind=ROLLOUT)
                     if each.position == rollout.position)  # fmt: skip
        is_checked = "check" in began.facts or "unchecked" in began.facts

        def gate(promotion: Promotion) -> Mapping[str, Any]:
            _check_still(rollout, promotion)
            on_behalf = dataclasses.replace(promotion, who=rollout.who)
            found = CheckedGate(policy)(on_behalf) if is_checked else {}
            return {**found, "rollout": rollout.position, "evidence": dict(evidence)}

        record = self._registry.promote(rollout.candidate, rollout.alias.name, gate=gate, reason=why)
        return self._after(rollout.alias, record)

    def _by_a_person(self, alias: Alias, event: Event, states: set[State], reason: str) -> Rollout:
        found = self.current(alias)
        if found is None:
            raise RegistryError(f"{alias} has no rollout; `penstock registry rollout start` begins one")
        check_approver(policy_for(self._registry.folder, alias.model), self._registry.who)
        return self._append(found, {"event": event, **_because(reason)}, states)

    def _append(
        self, rollout: Rollout, facts: Mapping[str, Any], states: set[State] | None = None
    ) -> Rollout:  # fmt: skip
        """Add a record to a rollout, if it is still as it was, or in one of these states."""

        def decide(promotion: Promotion) -> Mapping[str, Any]:
            if states is None:
                _check_still(rollout, promotion)
            else:
                _check_state(rollout, promotion, states)
            return {**facts, "rollout": rollout.position}

        record = self._registry.append_decided(ROLLOUT, rollout.candidate, decide, alias=rollout.alias.name)
        return self._after(rollout.alias, record)

    def _after(self, alias: Alias, record: Record) -> Rollout:
        records = [each for each in self._registry.history(alias.model) if each.position <= record.position]
        found = current(records, alias)
        assert found is not None, "bug: a rollout whose record was just written is gone"
        return found

    def _control(self, version: Version, alias: Alias) -> Pushed:
        """Return what the alias names; refuse what cannot answer in its place."""
        registry = self._registry
        registry.resolve(version)
        if alias not in registry.aliases(alias.model):
            raise RegistryError(f"{alias} names nothing yet, so there is nothing to compare {version} with; promote it")
        control = registry.resolve(alias)
        if control.version == version:
            raise RegistryError(f"{alias} names {version} already")
        if registry.package(version).signature != registry.package(control.version).signature:
            raise RegistryError(f"{version} has another signature than {control.version}, so it cannot answer in its "
                                "place; promote it instead")  # fmt: skip
        return control


def _check_free(promotion: Promotion, control: str) -> None:
    """Refuse a second rollout of an alias, and one against what the alias names no more."""
    alias = promotion.alias
    running = current(promotion.records, alias)
    if running is not None and not running.state.is_over:
        raise RegistryError(f"{running.candidate} is being rolled out to {alias} (record {running.position}); "
                            "abort that first, or wait for its end")  # fmt: skip
    if promotion.aliases.get(alias) != control:
        raise RegistryError(f"{alias} has moved meanwhile; try again")


def _check_still(rollout: Rollout, promotion: Promotion) -> None:
    """Refuse to act on a rollout that is not as the one who acts has seen it."""
    now = current(promotion.records, rollout.alias)
    if now is None or now.last != rollout.last:
        raise RegistryError(f"the rollout of {rollout.candidate} to {rollout.alias} has moved on meanwhile")


def _check_state(rollout: Rollout, promotion: Promotion, states: set[State]) -> None:
    now = current(promotion.records, rollout.alias)
    if now is None or now.position != rollout.position or now.state not in states:
        state = "over" if now is None else now.state.value
        wanted = " or ".join(sorted(state.value for state in states))
        raise RegistryError(f"the rollout of {rollout.candidate} to {rollout.alias} is {state}, expected {wanted}")


def _because(reason: str) -> dict[str, str]:
    return {"reason": checked_text("a reason", reason)} if reason else {}
