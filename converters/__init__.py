"""From the training world to ONNX. Never imported by the runtime; each framework sits behind the `convert` extra."""
