"""Kills a run of a pipeline at line after line; one JSON object per death tells what is left, and of the next run.

A program of its own, because it forks: `python -m tests.faults.killed_pipeline KIND STEP FOLDER`. A run of the kind
`promotion` promotes the first package, one of `rollout` records evidence and begins to roll out the second one.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from serving.release.rollouts import Rollouts
from tests.support import registries, release_pipelines, trials
from tests.support.release_pipelines import open_registry

FOLDERS = {"promotion": ("release/pipeline",), "rollout": ("release", "registry")}
MORE = """
evidence = ["train={file:train.json}"]
training_rows = "{file:rows.npz}"
"""


def state(folder: Path) -> dict:
    """What anybody can see."""
    with open_registry(folder) as registry:
        audit = registry.verify()
        return {
            "packages": len(registry.packages()),
            "aliases": {str(alias): sequence for alias, sequence in registry.aliases().items()},
            "rollouts": [f"{each.candidate} {each.state}" for each in Rollouts(registry).listed()],
            "evidence": sorted({record.kind for record in registry.history()} & {"data", "train"}),
            "findings": [str(finding) for finding in audit.findings],
            "killed": (folder / "work" / "run").exists(),
        }


def write_template(kind: str, folder: Path) -> None:
    folder.mkdir()
    file = release_pipelines.release(folder)
    if kind == "promotion":
        return
    release_pipelines.run(file, tools=trials.tools())
    (folder / "train.json").write_text('{"metrics": {"accuracy": 0.9}}')
    np.savez(folder / "rows.npz", x=trials.TRAINING)
    shutil.rmtree(folder / "source")
    file.write_text(release_pipelines.RELEASE.format(by="rollout", more=MORE))
    trials.write_sound(folder / "source", scale=3.0)


def main(kind: str, step: int, folder: Path) -> None:
    template = folder / "template"
    write_template(kind, template)
    tools = trials.tools()
    for n in registries.points(step):
        place = folder / "victim"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, place)
        file = place / "pipeline.toml"
        killed = registries.dies_at(n, lambda file=file: release_pipelines.run(file, tools=tools), *FOLDERS[kind])
        after = state(place)
        again = release_pipelines.run(file, tools=tools)
        print(json.dumps({
            "line": n, "after": after, "again": again.outcome.word, "steps": release_pipelines.steps(again),
            "resumes": "resumes" in again.records[0].facts, "in_the_end": state(place),
        }), flush=True)  # fmt: skip
        if not killed:
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
