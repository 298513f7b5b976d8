"""The MLflow back end: a server follows the aliases of models that were registered in MLflow as ONNX.

`server` speaks the documented REST API, `flavour` reads what a model says of itself (pure), `source` answers as a
registry does to a follower. Nothing of a model but its graph and the graph's weights is fetched: the rest are pickles
and code.
"""
