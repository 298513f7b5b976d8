"""The way from data to an alias, as a file of steps: what has not changed is not done again, and all of it is recorded.

`template` parses what stands in braces (pure), `definition` reads a pipeline.toml, `digests` names files by what they
hold, `workplace` keeps what steps made, `process` runs one command, `journal` writes the records, `runner` runs the
steps, `delivery` pushes, checks and promotes what they made, `alarms` decides which alarm of drift starts a run.
"""
