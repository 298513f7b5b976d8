"""Pre- and postprocessing of batches: named steps that a model's `[pipeline]` declares, composed when it is loaded.

Read it in this order: `step` (what a step is), `catalogue` (which there are), `composition` (names and shapes),
`passes` and `source` (what is compiled), `program` (running it), `pipeline` (what a servable holds).
"""
