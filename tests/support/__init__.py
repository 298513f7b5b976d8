"""What tests share: real ONNX graphs, running servers, environments for stock clients, a fake clock."""
