"""Texts with placeholders in braces, as the commands of steps have them. Pure.

{file:PATH}         a file or folder, seen from the folder of pipeline.toml
{STEP:PATH}         what an earlier step made
{out:PATH}          what this step makes
{parameter:NAME}    a parameter
{python}            the interpreter that runs Penstock
{{ and }}           braces
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from serving.errors import ConfigError

FILE, OUT, PARAMETER, PYTHON = "file", "out", "parameter", "python"
RESERVED = frozenset({FILE, OUT, PARAMETER, PYTHON})
"""Kinds of placeholders that are no steps."""

_PIECE = re.compile(r"\{\{|\}\}|\{([A-Za-z0-9_-]+)(?::([^{}]+))?\}|[{}]")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What stands for something that is known when a step runs. `kind` is one of `RESERVED`, or the name of a step."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{{{self.kind}:{self.name}}}" if self.name else f"{{{self.kind}}}"


Template = tuple[str | Placeholder, ...]


def parse(text: str) -> Template:
    """Read a text. Raises ConfigError for braces that mean nothing."""
    parts: list[str | Placeholder] = []
    end = 0
    for match in _PIECE.finditer(text):
        parts.append(text[end : match.start()])
        parts.append(_part(text, match))
        end = match.end()
    parts.append(text[end:])
    return tuple(part for part in parts if part)


def fill(template: Template, value: Callable[[Placeholder], str]) -> str:
    """Return the text with what its placeholders stand for."""
    return "".join(part if isinstance(part, str) else value(part) for part in template)


def placeholders(template: Template) -> list[Placeholder]:
    """Return the placeholders in their order."""
    return [part for part in template if isinstance(part, Placeholder)]


def _part(text: str, match: re.Match[str]) -> str | Placeholder:
    if match[0] in {"{{", "}}"}:
        return match[0][0]
    if match[1] is None or (match[2] is None) != (match[1] == PYTHON):
        raise ConfigError(
            f"{text!r} holds {match[0]!r}, expected {{file:PATH}}, {{STEP:PATH}}, {{out:PATH}}, {{parameter:NAME}}, "
            "{python}, or a brace doubled"
        )
    return Placeholder(match[1], match[2] or "")
