"""How many requests ended how. Lives on the I/O thread."""

from collections import Counter

from serving.errors import Code, ServingError

Outcome = tuple[str, str, Code, str]
"""Model, version, code and reason. Model and version are empty for names that this server does not know, so that the
number of outcomes is bounded by what the repository has ever held and not by what clients send."""


class RequestCounters:
    """Counts answers by outcome."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()

    def count(self, model: str, version: str, error: ServingError | None, requests: int = 1) -> None:
        """Count answers; `error` is None for outputs."""
        if error is None:
            self.outcomes[model, version, Code.OK, ""] += requests
        else:
            self.outcomes[model, version, error.code, error.reason] += requests

    def rejections(self, model: str, version: str) -> dict[str, int]:
        """Return how many requests of one version were not answered with outputs, by reason."""
        found: Counter[str] = Counter()
        for (name, number, code, reason), count in self.outcomes.items():
            if (name, number) == (model, version) and code is not Code.OK:
                found[reason] += count
        return found
