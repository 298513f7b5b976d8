"""Parity: does the graph answer as the framework does? A gate on every conversion, with the rows that break graphs."""
