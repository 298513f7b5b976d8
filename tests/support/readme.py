"""The README's option tables, made from the configuration itself: `python -m tests.support.readme` prints them."""

import dataclasses

from serving.commands.options import environment_name, shown_default
from serving.config import BatchingConfig, DriftConfig, InstancesConfig, ModelConfig, ServerConfig, SessionConfig
from serving.release.pipeline.definition import DeliveryConfig, StepConfig
from serving.release.policy import CHECKS, Policy


def server_table() -> str:
    """The flags of `penstock serve`."""
    lines = ["| flag | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for item in dataclasses.fields(ServerConfig):
        flag = "--" + item.name.replace("_", "-")
        meaning = item.metadata["help"] + _choices(item)
        lines.append(f"| `{flag}` | `{environment_name(item.name)}` | `{shown_default(item)}` | {meaning} |")
    return "\n".join(lines)


def model_table() -> str:
    """The keys of `model.toml`."""
    lines = ["| table | key | default | meaning |", "| --- | --- | --- | --- |"]
    tables = [("", ModelConfig), ("[batching]", BatchingConfig), ("[instances]", InstancesConfig)]
    for table, config in [*tables, ("[session]", SessionConfig), ("[drift]", DriftConfig)]:
        for item in dataclasses.fields(config):
            if dataclasses.is_dataclass(item.type) and not item.metadata["help"]:
                continue
            default = _toml(item.default)
            shown = f"`{table}`" if table else ""
            lines.append(f"| {shown} | `{item.name}` | `{default}` | {item.metadata['help']}{_choices(item)} |")
    return "\n".join(lines)


def policy_table() -> str:
    """The keys of a registry's policy."""
    lines = ["| table | key | default | meaning |", "| --- | --- | --- | --- |"]
    for table in dataclasses.fields(Policy):
        for item in dataclasses.fields(table.type):
            default = "all" if item.default == CHECKS else _toml(item.default)
            meaning = item.metadata["help"] + _choices(item)
            lines.append(f"| `[{table.name}]` | `{item.name}` | `{default}` | {meaning} |")
    return "\n".join(lines)


def pipeline_table() -> str:
    """The keys of a pipeline.toml."""
    lines = ["| table | key | default | meaning |", "| --- | --- | --- | --- |"]
    for table, config in (("[steps.NAME]", StepConfig), ("[release]", DeliveryConfig)):
        for item in dataclasses.fields(config):
            meaning = item.metadata["help"] + _choices(item)
            lines.append(f"| `{table}` | `{item.name}` | `{_toml(item.default)}` | {meaning} |")
    return "\n".join(lines)


def _choices(item) -> str:
    choices = item.metadata.get("choices")
    return f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""


def _toml(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return str(value) if isinstance(value, int | float) else f'"{value}"'


if __name__ == "__main__":
    print(server_table(), model_table(), policy_table(), pipeline_table(), sep="\n\n")
