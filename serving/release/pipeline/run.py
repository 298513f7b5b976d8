"""One run of a pipeline, from its beginning in the ledger to its end there."""

import contextlib
from dataclasses import dataclass

from serving.errors import ConfigError, PackageError, RegistryError
from serving.registry.client import Registry
from serving.registry.record import Record
from serving.release.check import Tools
from serving.release.pipeline.definition import Definition
from serving.release.pipeline.delivery import Deliverer, Outcome
from serving.release.pipeline.journal import FAILED, Journal, Trigger
from serving.release.pipeline.runner import Runner, Say
from serving.release.pipeline.workplace import Workplace


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that came to its end, and the records that it wrote, begin and end among them."""

    run: int
    outcome: Outcome
    records: tuple[Record, ...]

    @property
    def head(self) -> str:
        """The digest of the last record of it."""
        return self.records[-1].digest


def run_pipeline(
    definition: Definition, registry: Registry, workplace: Workplace, trigger: Trigger, *,
    tools: Tools, say: Say, wait: bool = False,
) -> Finished:  # fmt: skip
    """Run the steps, and deliver what they made. `wait` waits for another run here, instead of refusing.

    Raises ConfigError, PackageError and RegistryError; the ledger then says that the run failed, and why. A run that is
    killed has no end in the ledger; the next one names it, and goes on behind the last step that had ended.
    """
    with workplace.locked(wait=wait):
        killed = workplace.killed_run()
        facts = {"pipeline": definition.digest, "parameters": dict(definition.parameters), **trigger.facts()}
        journal = Journal.begin(registry, definition.model, facts | ({"resumes": killed} if killed else {}))
        say(f"run {journal.run} of {definition.model}{f', which goes on where run {killed} was killed' * bool(killed)}")
        try:
            workplace.begin_run(journal.run)
            outcome = _work(definition, registry, Runner(definition, workplace, journal, say), tools)
        except (ConfigError, PackageError, RegistryError) as error:
            with contextlib.suppress(RegistryError):  # it may be the registry that is away
                journal.end(FAILED, str(error)[:2_000])
            workplace.end_run()
            raise
        journal.end(outcome.word, outcome.explanation)
        workplace.end_run()
        return Finished(journal.run, outcome, tuple(journal.records))


def _work(definition: Definition, registry: Registry, runner: Runner, tools: Tools) -> Outcome:
    made = runner.run()
    if definition.delivery is None:
        return Outcome("made", f"{len(made)} steps, and no [release]")
    return Deliverer(registry, definition.delivery, runner, tools).deliver()
