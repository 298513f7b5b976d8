"""Folders with a pipeline.toml whose steps are small programs, and runs of them in this process."""

from pathlib import Path

from serving.registry.client import Registry
from serving.release.pipeline.definition import read_definition
from serving.release.pipeline.journal import Trigger
from serving.release.pipeline.run import run_pipeline
from serving.release.pipeline.workplace import Workplace
from tests.support import trials

UPPER = 'tr a-z A-Z < "$1" > "$2"; echo run >> "$3"'
"""Writes a file in capitals, and leaves a line where nobody but the test looks."""

TWO_STEPS = """
model = "affine"
[parameters]
word = "x"
[steps.shout]
command = ["sh", "-c", "{script}", "-", "{{file:words.txt}}", "{{out:loud.txt}}", "{folder}/shouted"]
[steps.join]
command = [
    "sh", "-c", "{join}", "-", "{{shout:loud.txt}}", "{{parameter:word}}", "{{out:a/joined.txt}}", "{folder}/joined",
]
"""
JOIN = r"cat \"$1\" > \"$3\"; echo \"$2\" >> \"$3\"; echo run >> \"$4\""

RELEASE = """
model = "affine"
[steps.convert]
command = ["cp", "-r", "{{file:source}}", "{{out:affine}}"]
[release]
package = "{{convert:affine}}"
held_out = "{{file:held_out.npz}}"
by = "{by}"
{more}
"""
POLICY = "[quality]\nmargin = 0.02\n"


def two_steps(folder: Path) -> Path:
    """Write a pipeline of two steps, `shout` and `join`, which count their runs; return its file."""
    (folder / "words.txt").write_text("hello\n")
    file = folder / "pipeline.toml"
    script = UPPER.replace('"', r"\"")
    file.write_text(TWO_STEPS.format(script=script, join=JOIN, folder=folder))
    return file


def runs_of(folder: Path, name: str) -> int:
    """How often a step of `two_steps` ran: `shouted` or `joined`."""
    log = folder / name
    return len(log.read_text().splitlines()) if log.exists() else 0


def release(folder: Path, *, by: str = "promotion", more: str = "") -> Path:
    """Write a pipeline whose one step copies the package in `source`, a sound one; return its file."""
    trials.write_sound(folder / "source")
    trials.write_held_out(folder / "held_out.npz")
    (folder / "registry").mkdir()
    (folder / "registry" / "policy.toml").write_text(POLICY)
    file = folder / "pipeline.toml"
    file.write_text(RELEASE.format(by=by, more=more))
    return file


def open_registry(folder: Path) -> Registry:
    """The registry beside a pipeline."""
    return Registry.open(str(folder / "registry"), who="ada", create=True)


def run(file: Path, *, tools=None, said=None, trigger=None, **parameters):
    """Run a pipeline with its registry and workplace beside it."""
    with open_registry(file.parent) as registry:
        return run_pipeline(
            read_definition(file).with_parameters(parameters), registry, Workplace(file.parent / "work"),
            trigger or Trigger(), tools=tools or trials.tools(), say=(said if said is not None else []).append,
        )  # fmt: skip


def steps(finished) -> dict[str, str]:
    """What became of each step of a run."""
    return {each.facts["step"]: each.facts["outcome"] for each in finished.records if each.kind == "step"}
