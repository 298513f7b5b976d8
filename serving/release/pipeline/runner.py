"""Runs the steps of a pipeline in their order; a step is not run again while nothing that it depends on has changed.

What a step depends on is its key: the digest of its command, the parameters and variables in it, the files and the
outputs of earlier steps that it names. The environment and what a program reads besides do not count.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.errors import ConfigError
from serving.registry.record import canonical, digest_of
from serving.release.pipeline.definition import Definition, Step
from serving.release.pipeline.digests import Digested, digest_path, stamp_of
from serving.release.pipeline.journal import FAILED, KEPT, RAN, Journal
from serving.release.pipeline.process import Ended, last_line, run_command
from serving.release.pipeline.template import FILE, OUT, PARAMETER, PYTHON, Placeholder, fill
from serving.release.pipeline.workplace import LOG_FILE, OUT_FOLDER, SCRATCH_FOLDER, Result, Workplace

KEY_FORMAT = 1

Say = Callable[[str], None]
"""Takes a line for people who watch."""


class StepFailed(ConfigError):
    """A step did not do what it should. The message is one line that tells where its output is."""


@dataclass(slots=True)
class Runner:
    """One run of the steps. The workplace is locked meanwhile. `made` is what the steps that have ended made."""

    definition: Definition
    workplace: Workplace
    journal: Journal
    say: Say
    made: dict[str, Result] = field(default_factory=dict)

    def run(self) -> Mapping[str, Result]:
        """Run what has to be run; return what each step made. Raises StepFailed, which is recorded."""
        for step in self.definition.steps:
            try:
                self.made[step.name] = self._step(step)
            except ConfigError as error:
                message = f"step '{step.name}': {error}"
                self.journal.step(step.name, FAILED, {"explanation": str(error)[:2_000]})
                self.say(f"  {step.name:<10} failed")
                raise StepFailed(message) from None
        return self.made

    def path(self, each: Placeholder) -> Path:
        """Return where a file or an output lies."""
        if each.kind == FILE:
            return self.definition.folder / each.name
        return self.made[each.kind].path(each.name)

    def digest(self, each: Placeholder) -> str:
        """Return what a file or an output holds."""
        if each.kind == FILE:
            return digest_path(self.path(each)).digest
        return self.made[each.kind].outputs[each.name]

    def _step(self, step: Step) -> Result:
        files = {name: digest_path(self.definition.folder / name) for name in step.paths}
        key = self._key(step, files)
        kept = None if step.always else self.workplace.find(step.name, key, step.outputs)
        result = kept or self._work(step, key, files)
        facts: dict[str, Any] = {
            "key": key,
            "files": {name: each.digest for name, each in files.items()},
            "outputs": dict(result.outputs),
            "seconds": round(result.seconds, 3),
        }
        if kept is not None:
            self.journal.step(step.name, KEPT, {**facts, "since": result.run})
            self.say(f"  {step.name:<10} kept, nothing has changed since run {result.run}")
        else:
            self.journal.step(step.name, RAN, facts)
            self.say(f"  {step.name:<10} ran, {result.seconds:.1f} s")
        return result

    def _key(self, step: Step, files: Mapping[str, Digested]) -> str:
        parameters = self.definition.parameters
        facts = {
            "format": KEY_FORMAT,
            "command": [[_written(part) for part in template] for template in step.command],
            "environment": {name: [_written(part) for part in each] for name, each in step.environment.items()},
            "parameters": {each.name: parameters[each.name] for each in step.placeholders if each.kind == PARAMETER},
            "files": {name: each.digest for name, each in files.items()},
            "inputs": {str(each): self.digest(each) for each in step.inputs},
        }
        return digest_of(canonical(facts).encode())

    def _work(self, step: Step, key: str, files: Mapping[str, Digested]) -> Result:
        """Run a step's command in a folder of its own, and keep what it made."""
        draft = self.workplace.begin(step.name)
        try:
            ended = self._command(step, draft)
            if ended.timed_out or ended.status:
                raise ConfigError(_why(step, ended, draft / LOG_FILE))  # noqa: TRY301 - the log is kept below
            for name, each in files.items():
                if stamp_of(self.definition.folder / name) != each.stamp:
                    raise ConfigError(f"{name} was written while it ran; run it again")  # noqa: TRY301 - as above
            return self.workplace.keep(draft, key, step.outputs, run=self.journal.run, seconds=ended.seconds)
        except ConfigError as error:
            raise ConfigError(f"{error}; its output is in {self.workplace.fail(draft)}") from None

    def _command(self, step: Step, draft: Path) -> Ended:
        out = draft / OUT_FOLDER
        for name in step.outputs:
            (out / name).parent.mkdir(parents=True, exist_ok=True)

        def value(each: Placeholder) -> str:
            if each.kind == OUT:
                return str(out / each.name)
            if each.kind == PARAMETER:
                return _text(self.definition.parameters[each.name])
            return sys.executable if each.kind == PYTHON else str(self.path(each))

        environment = {**os.environ, **{name: fill(text, value) for name, text in step.environment.items()}}
        return run_command(
            [fill(text, value) for text in step.command], folder=draft / SCRATCH_FOLDER, environment=environment,
            timeout_s=step.timeout_s, log=draft / LOG_FILE,
            started=lambda pid: self.workplace.started(draft, pid),
        )  # fmt: skip


def _why(step: Step, ended: Ended, log: Path) -> str:
    """Say how a program failed, with the last thing that it said."""
    said = last_line(log)
    told = f": {said}" if said else ""
    if ended.timed_out:
        return f"ended after timeout_s = {step.timeout_s:g}{told}"
    how = f"status {ended.status}" if ended.status > 0 else f"signal {-ended.status}"
    return f"failed with {how} after {ended.seconds:.1f} s{told}"


def _written(part: str | Placeholder) -> Any:
    """Return a part of a command as a key holds it: a placeholder is told apart from the same text."""
    return part if isinstance(part, str) else {"placeholder": str(part)}


def _text(value: object) -> str:
    """Return a parameter as a program reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
