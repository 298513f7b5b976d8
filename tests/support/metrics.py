"""What a server's /metrics says."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def counter(server, name: str, **labels: str) -> float:
    """Sum the samples of a metric that have these labels."""
    with urllib.request.urlopen(f"{server.http}/metrics") as page:
        families = text_string_to_metric_families(page.read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
