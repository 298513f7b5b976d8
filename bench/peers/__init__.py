"""Other model servers on the same model, each from its own virtual environment, measured beside ours.

`peer` says what a peer is; `penstock`, `mlserver`, `kserve` and `triton` each know one; `run` measures them in turn.
The files in `inside` run in the peers' environments and import nothing of ours.
"""
