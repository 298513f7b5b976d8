"""The only place that knows onnxruntime: `session` loads and runs a graph, `instances` are the threads that call it."""
