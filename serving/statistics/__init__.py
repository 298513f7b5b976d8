"""What happened: `latency` counts per servable, `counters` per outcome, `exporter` writes Prometheus' text.

`profile` is how the features of a model were distributed when it was trained.
"""

KERNEL_MODULES = ("serving.statistics.stage_kernel",)
"""Where the compiled part is."""
