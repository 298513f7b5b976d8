"""`python -m converters.matrix`: convert every model of the matrix and print the table, or write it into the README."""

from pathlib import Path

import click

from converters.matrix import others, table, zoo
from converters.matrix.measure import measure


@click.command()
@click.option("--readme", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the table between the marks of this file instead of printing it.")  # fmt: skip
@click.option("--only", default="", help="Only families and models whose name contains this.")
def main(readme: Path | None, only: str) -> None:
    """Convert every model of every installed framework, compare, and time."""
    entries = [entry for entry in (*zoo.entries(), *others.entries()) if only.lower() in entry.id.lower()]
    text = table.rendered(measure(entries, lambda name: click.echo(name, err=True)))
    if readme is None:
        click.echo(text)
    else:
        table.write(readme, text)


if __name__ == "__main__":
    main()
