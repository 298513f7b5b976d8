"""A conversion's report as one HTML file that needs nothing else and opens offline; all that users named is escaped."""

from pathlib import Path

from jinja2 import Environment, StrictUndefined

from converters.report import summary
from serving.errors import ConfigError

TEMPLATE = Path(__file__).with_name("page.html")


def render(facts: summary.Facts) -> str:
    """Return the page of a report."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts=facts)


def check_place(path: Path) -> None:
    """Raise ConfigError when a page cannot be written there, before minutes of work."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"{path} cannot be written: it is a folder, or its folder does not exist; name a file")


def write(path: Path, facts: summary.Facts) -> None:
    """Write the page. Raises ConfigError when it cannot be written."""
    try:
        path.write_text(render(facts), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"--html {path} cannot be written: {error.strerror}") from None
