"""Kills a run of a pipeline at line after line; one JSON object per death tells what is left, and of the next run.

A program of its own, because it forks: `python -m tests.faults.killed_pipeline STEP FOLDER`.
"""

import json
import shutil
import sys
from pathlib import Path

from tests.support import registries, release_pipelines, trials
from tests.support.release_pipelines import open_registry


def state(folder: Path) -> dict:
    """What anybody can see."""
    with open_registry(folder) as registry:
        audit = registry.verify()
        return {
            "packages": len(registry.packages()),
            "aliases": {str(alias): sequence for alias, sequence in registry.aliases().items()},
            "findings": [str(finding) for finding in audit.findings],
            "killed": (folder / "work" / "run").exists(),
        }


def main(step: int, folder: Path) -> None:
    template = folder / "template"
    template.mkdir()
    release_pipelines.release(template)
    tools = trials.tools()
    for n in registries.points(step):
        place = folder / "victim"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, place)
        file = place / "pipeline.toml"
        killed = registries.dies_at(n, lambda file=file: release_pipelines.run(file, tools=tools), "release/pipeline")
        after = state(place)
        again = release_pipelines.run(file, tools=tools)
        print(json.dumps({
            "line": n, "after": after, "again": again.outcome.word, "steps": release_pipelines.steps(again),
            "resumes": "resumes" in again.records[0].facts, "in_the_end": state(place),
        }), flush=True)  # fmt: skip
        if not killed:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
