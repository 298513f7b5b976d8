"""What happened: `latency` counts per servable, `counters` per outcome, `exporter` writes Prometheus' text."""
