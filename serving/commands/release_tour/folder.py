"""The folder of the tour: what a user's own would hold, a CSV, a pipeline with its programs, a policy, a registry."""

import importlib.resources
import shutil
from pathlib import Path

from serving.commands.release_tour.world import Forms, write_rows
from serving.errors import ConfigError

MODEL_TOML = """# Panes of a second, so that the tour takes minutes; a real office would leave the defaults.
[drift]
pane_s = 1.0
alarm_panes = 100000
"""


def check_is_new(folder: Path) -> None:
    """Refuse a folder that holds something. Raises ConfigError."""
    try:
        is_new = not folder.exists() or not any(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"--folder {folder} cannot be used: {error.strerror}") from None
    if not is_new:
        raise ConfigError(f"{folder} is not empty; name another folder with --folder, or remove it")


def fill(folder: Path, model: str, archive: Forms) -> None:
    """Write everything that the pipeline of a model starts from. Raises ConfigError when it cannot be written."""
    try:
        for name in ("registry", f"models/{model}"):
            (folder / name).mkdir(parents=True)
        for file in (importlib.resources.files("serving.commands.release_tour") / "files").iterdir():
            if file.is_file():
                target = folder / "registry" if file.name == "policy.toml" else folder
                with importlib.resources.as_file(file) as source:
                    shutil.copyfile(source, target / file.name)
        (folder / "models" / model / "model.toml").write_text(MODEL_TOML)
        write_rows(folder / "rows.csv", archive)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
