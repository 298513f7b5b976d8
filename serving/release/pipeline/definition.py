"""A `pipeline.toml`: the model, parameters, steps in their order, and what becomes of the package that they make.

    model = "digits"

    [parameters]
    trees = 100

    [steps.train]
    command = ["{python}", "{file:train.py}", "{file:rows.csv}", "{parameter:trees}", "{out:model.joblib}"]

Reads that one file and looks at no other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from serving.config import build, nearest, option, read_toml
from serving.errors import ConfigError, RegistryError
from serving.registry.evidence import KINDS
from serving.registry.names import check_word
from serving.registry.record import canonical, digest_of
from serving.release.pipeline.template import FILE, OUT, PARAMETER, RESERVED, Placeholder, Template, parse, placeholders

STEPS_MAX = 100
ARGUMENTS_MAX = 1_000
PUSH, CHECK, PROMOTE, ROLL_OUT = "push", "check", "promote", "rollout"
OWN_STEPS = (PUSH, CHECK, PROMOTE, ROLL_OUT)
"""The steps that follow those of the file, when it has a `[release]`."""

_STEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepConfig:
    """`[steps.NAME]`: one program, what it reads and makes."""

    command: tuple[str, ...] = option((), "The program and its arguments; no shell reads them.")
    files: tuple[str, ...] = option(
        (), "Files and folders that it reads and its command does not name: modules, a lock file."
    )
    environment: tuple[str, ...] = option((), "Variables for it, as NAME=TEXT.")
    timeout_s: float = option(3_600.0, "It is ended after so long, and the run fails.", minimum=0.1, maximum=2_592_000)
    always: bool = option(False, "Run it every time: it reads what is no file, such as a database.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """`[release]`: what becomes of the package that the steps make."""

    package: str = option("", "The package that the steps make, as {STEP:PATH}.")
    held_out: str = option("", "Rows to judge quality on, as {STEP:PATH} or {file:PATH}.")
    training_rows: str = option("", "Training rows as .npz, so that held-out rows are looked for among them.")
    evidence: tuple[str, ...] = option((), "What is recorded before the push, as KIND={STEP:PATH} of a JSON file.")
    alias: str = option("production", "The alias that the package is for.")
    against: str = option("", "Compare with the package that this alias names. Empty: that of `alias`.")
    by: str = option(
        "person", "How a package that passes gets it: a person decides, a promotion moves the alias at once, a rollout "
        "step by step while servers compare. The first package is promoted in place of a rollout.",
        choices=("person", "promotion", "rollout"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One step, parsed."""

    name: str
    command: tuple[Template, ...]
    environment: Mapping[str, Template]
    files: tuple[str, ...]
    timeout_s: float
    always: bool

    @property
    def placeholders(self) -> list[Placeholder]:
        """Everything that the command and the variables name."""
        return [each for template in (*self.command, *self.environment.values()) for each in placeholders(template)]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What it makes, as paths."""
        return tuple(dict.fromkeys(each.name for each in self.placeholders if each.kind == OUT))

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that it reads, as they are written in the definition."""
        named = [each.name for each in self.placeholders if each.kind == FILE]
        return tuple(dict.fromkeys([*named, *self.files]))

    @property
    def inputs(self) -> tuple[Placeholder, ...]:
        """What it reads of earlier steps."""
        return tuple(dict.fromkeys(each for each in self.placeholders if each.kind not in RESERVED))


@dataclass(frozen=True, slots=True)
class Delivery:
    """`[release]`, parsed."""

    package: Placeholder
    held_out: Placeholder | None
    training_rows: Placeholder | None
    evidence: tuple[tuple[str, Placeholder], ...]
    alias: str
    against: str
    by: str


@dataclass(frozen=True, slots=True)
class Definition:
    """A pipeline. `folder` is where its file lies, and what `{file:PATH}` is seen from."""

    folder: Path
    model: str
    parameters: Mapping[str, Scalar]
    steps: tuple[Step, ...]
    delivery: Delivery | None
    digest: str

    def with_parameters(self, texts: Mapping[str, str]) -> "Definition":
        """Return it with other values for some parameters, each of the type that it has. Raises ConfigError."""
        changed = dict(self.parameters)
        for name, text in texts.items():
            if name not in self.parameters:
                raise ConfigError(f"unknown parameter '{name}'{nearest(name, self.parameters)}")
            changed[name] = _as_type(name, text, self.parameters[name])
        return replace(self, parameters=changed)


def read_definition(path: Path) -> Definition:
    """Read a pipeline.toml. Raises ConfigError, which names the file, for one that cannot be used."""
    values = read_toml(path)
    try:
        return _definition(path.absolute().parent, values)
    except (ConfigError, RegistryError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _definition(folder: Path, values: Mapping[str, Any]) -> Definition:
    known = ("model", "parameters", "steps", "release")
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{key}'{nearest(key, known)}")
    model = values.get("model")
    if not isinstance(model, str):
        raise ConfigError(f"model = {model!r}, expected the name of the model" if "model" in values
                          else 'no model; expected a line such as model = "fraud"')  # fmt: skip
    check_word("a model's name", model)
    parameters = _parameters(_table(values, "parameters"))
    steps = _steps(_table(values, "steps"), parameters)
    delivery = _delivery(_table(values, "release"), steps) if "release" in values else None
    return Definition(folder, model, parameters, steps, delivery, _digest(values))


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name} = {table!r:.80}, expected a table [{name}]")
    return table


def _parameters(table: Mapping[str, Any]) -> dict[str, Scalar]:
    for name, value in table.items():
        if not isinstance(value, str | int | float):
            raise ConfigError(f"[parameters] {name} = {value!r:.80}, expected text, a number, or true or false")
    return dict(table)


def _steps(table: Mapping[str, Any], parameters: Mapping[str, Scalar]) -> tuple[Step, ...]:
    if not 0 < len(table) <= STEPS_MAX:
        raise ConfigError(f"{len(table)} steps, expected 1 to {STEPS_MAX} tables such as [steps.train]")
    steps: dict[str, Step] = {}
    for name, values in table.items():
        if not _STEP_NAME.fullmatch(name) or name in RESERVED or name in OWN_STEPS:
            taken = f"; {', '.join(sorted({*RESERVED, *OWN_STEPS}))} mean something else"
            raise ConfigError(f"[steps.{name}] expected a name of up to 64 letters, digits, '_' and '-'{taken}")
        if not isinstance(values, dict):
            raise ConfigError(f"steps.{name} = {values!r:.80}, expected a table [steps.{name}]")
        steps[name] = _step(name, build(StepConfig, values, table=f"steps.{name}"))
        _check_names(steps[name], steps, parameters)
    return tuple(steps.values())


def _step(name: str, config: StepConfig) -> Step:
    where = f"[steps.{name}]"
    if not 0 < len(config.command) <= ARGUMENTS_MAX:
        raise ConfigError(f"{where} command of {len(config.command)} arguments, expected 1 to {ARGUMENTS_MAX}")
    if not all(config.command[:1]) or not all(config.files):
        raise ConfigError(f"{where} an empty text names neither a program nor a file")
    environment = {}
    for text in config.environment:
        match = _VARIABLE.fullmatch(text)
        if match is None:
            raise ConfigError(f"{where} environment = {text!r}, expected NAME=TEXT")
        environment[match[1]] = match[2]
    for text in (*config.command, *config.files, *environment.values()):
        if "\0" in text:
            raise ConfigError(f"{where} {text!r:.80} holds a zero byte, which no program can be given")
    try:
        command = tuple(map(parse, config.command))
        variables = {variable: parse(text) for variable, text in environment.items()}
    except ConfigError as error:
        raise ConfigError(f"{where} {error}") from None
    return Step(name, command, variables, config.files, config.timeout_s, config.always)


def _check_names(step: Step, steps: Mapping[str, Step], parameters: Mapping[str, Scalar]) -> None:
    where = f"[steps.{step.name}]"
    for each in step.placeholders:
        if each.kind == PARAMETER and each.name not in parameters:
            raise ConfigError(f"{where} {each}: no such parameter{nearest(each.name, parameters)}")
        if each.kind == OUT:
            _check_output(where, each.name, step)
    for each in step.inputs:
        if each.kind == step.name:
            raise ConfigError(f"{where} {each}: what a step makes itself is {{out:{each.name}}}")
        _check_made(where, each, steps)


def _check_output(where: str, name: str, step: Step) -> None:
    """Refuse a path that leads out of the step's folder, or lies inside of another output."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise ConfigError(f"{where} {{out:{name}}}: expected a path below the step's own folder, such as model.joblib")
    for other in step.outputs:
        if path in PurePosixPath(other).parents:
            raise ConfigError(f"{where} {{out:{other}}} lies in {{out:{name}}}; name one of them")


def _check_made(where: str, each: Placeholder, steps: Mapping[str, Step]) -> None:
    """Refuse what no earlier step makes."""
    if each.kind not in steps:
        raise ConfigError(f"{where} {each}: no step '{each.kind}' comes before{nearest(each.kind, steps)}")
    outputs = steps[each.kind].outputs
    if each.name not in outputs:
        raise ConfigError(f"{where} {each}: step '{each.kind}' does not make it{nearest(each.name, outputs)}")


def _delivery(table: Mapping[str, Any], steps: Sequence[Step]) -> Delivery:
    config = build(DeliveryConfig, table, table="release")
    made = {step.name: step for step in steps}
    if not config.package:
        raise ConfigError("[release] without package, expected one such as package = '{convert:fraud/1}'")
    evidence = []
    for text in config.evidence:
        kind, separator, reference = text.partition("=")
        if not separator or kind not in KINDS:
            raise ConfigError(f"[release] evidence = {text!r}, expected KIND={{STEP:PATH}} with one of "
                              f"{', '.join(KINDS)}")  # fmt: skip
        evidence.append((kind, _reference("evidence", reference, made)))
    check_word("[release] alias", config.alias)
    against = check_word("[release] against", config.against or config.alias)
    return Delivery(
        _reference("package", config.package, made, of_step=True),
        _reference("held_out", config.held_out, made) if config.held_out else None,
        _reference("training_rows", config.training_rows, made) if config.training_rows else None,
        tuple(evidence), config.alias, against, config.by,
    )  # fmt: skip


def _reference(key: str, text: str, steps: Mapping[str, Step], *, of_step: bool = False) -> Placeholder:
    """Read one placeholder that names something to read."""
    if "\0" in text:
        raise ConfigError(f"[release] {key} = {text!r:.80} holds a zero byte, which no file's name can")
    template = parse(text)
    (each,) = template if len(template) == 1 else ("",)
    if not isinstance(each, Placeholder) or each.kind in RESERVED - {FILE} or (of_step and each.kind == FILE):
        expected = "{STEP:PATH}" if of_step else "{STEP:PATH} or {file:PATH}"
        raise ConfigError(f"[release] {key} = {text!r}, expected {expected} and nothing else")
    if each.kind != FILE:
        _check_made(f"[release] {key}", each, steps)
    return each


def _as_type(name: str, text: str, like: Scalar) -> Scalar:
    """Read a value as one of the type that a parameter has."""
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text]
        return type(like)(text)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[type(like)]
        raise ConfigError(f"parameter {name} = {text!r}, expected {expected}") from None


def _digest(values: Mapping[str, Any]) -> str:
    """Return what records name the definition by. No key here takes what TOML has and JSON has not, such as dates."""
    return digest_of(canonical(values).encode())
