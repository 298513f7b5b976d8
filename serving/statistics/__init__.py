"""What happened: `latency` counts per servable, `counters` per outcome, `exporter` writes Prometheus' text."""

KERNEL_MODULES = ("serving.statistics.stage_kernel",)
"""Where the compiled part is."""
