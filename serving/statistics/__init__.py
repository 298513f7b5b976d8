"""What happened: `latency` counts per servable, `counters` per outcome, `exporter` writes Prometheus' text.

`profile` is how the features of a model were distributed when it was trained, `drift` what is different now, `feedback`
whether predictions were right.
"""

KERNEL_MODULES = (
    "serving.statistics.stage_kernel",
    "serving.statistics.drift.kernels.counting",
    "serving.statistics.drift.kernels.deriving",
)
"""Where the compiled parts are."""
