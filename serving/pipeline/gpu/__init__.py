"""Pipelines on a GPU: twins of the CPU's kernels, and running them on what lies in its memory.

Imported only for servables with `[instances] kind = "gpu"`. Read it in this order: `kernels` and `elements` (twins),
`stages` (which step has which twin), `division` (what of a pipeline runs there), `program` (running it).
"""
