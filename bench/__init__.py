"""Measurements: each module prints one comparison, taken side by side in one run."""
