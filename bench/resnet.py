"""A convolutional network of real size: ResNet-50, with random weights, as ONNX. Knows onnx and numpy.

Source: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1, the column of 50 layers. Batch
normalisation is folded into the convolutions, as it is where models are served.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
"""How many blocks there are, and how wide they are inside; outside they are four times as wide."""
CLASSES = 1000
_EXPANSION = 4
_RELU_GAIN = 2**0.5
_BRANCH_GAIN = 0.3
"""Random weights of these sizes keep numbers at the size that they have, over all blocks."""


def resnet(stages: Sequence[tuple[int, int]] = STAGES, classes: int = CLASSES, side: int = 224) -> bytes:
    """Return the graph: `image` FP32 [rows, 3, side, side] in, `scores` FP32 [rows, classes] out."""
    graph = _Graph()
    name = graph.convolution("image", 3, stages[0][1], 7, 2)
    name = graph.node("MaxPool", [name], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = stages[0][1]
    for stage, (blocks, width) in enumerate(stages):
        for block in range(blocks):
            name = _block(graph, name, channels, width, 2 if stage and not block else 1)
            channels = width * _EXPANSION
    name = graph.node("Flatten", [graph.node("GlobalAveragePool", [name])])
    graph.node("Gemm", [name, graph.weights((channels, classes), channels, 1.0)], output="scores")
    return graph.serialised(side, classes)


def _block(graph: "_Graph", name: str, channels: int, width: int, stride: int) -> str:
    """Add a bottleneck: narrow, look around, widen, and add what came, brought to that shape."""
    inner = graph.convolution(name, channels, width, 1, 1)
    inner = graph.convolution(inner, width, width, 3, stride)
    inner = graph.convolution(inner, width, width * _EXPANSION, 1, 1, gain=_BRANCH_GAIN)
    if channels != width * _EXPANSION or stride > 1:
        name = graph.convolution(name, channels, width * _EXPANSION, 1, stride, gain=1.0)
    return graph.node("Relu", [graph.node("Add", [inner, name])])


class _Graph:
    """Nodes and weights as they are added; weights are random, and the same each time."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node; return the name of what it gives."""
        output = output or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weights(self, shape: tuple[int, ...], fan_in: int, gain: float) -> str:
        """Add random weights that make numbers larger by `gain`."""
        name = f"w{len(self._initializers)}"
        array = self._random.normal(0, gain / np.sqrt(fan_in), shape)
        self._initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def convolution(
        self, name: str, given: int, wanted: int, side: int, stride: int, *, gain: float = _RELU_GAIN
    ) -> str:  # fmt: skip
        """Add a convolution, with a ReLU behind it where its weights make up for one."""
        fan_in = given * side * side
        inputs = [name, self.weights((wanted, given, side, side), fan_in, gain)]
        bias = numpy_helper.from_array(np.zeros(wanted, np.float32), f"w{len(self._initializers)}")
        self._initializers.append(bias)
        inputs.append(bias.name)
        pads = [side // 2] * 4
        result = self.node("Conv", inputs, kernel_shape=[side] * 2, strides=[stride] * 2, pads=pads)
        return self.node("Relu", [result]) if gain == _RELU_GAIN else result

    def serialised(self, side: int, classes: int) -> bytes:
        """Return the graph as a file has it."""
        floats = onnx.TensorProto.FLOAT
        image = helper.make_tensor_value_info("image", floats, ["rows", 3, side, side])
        scores = helper.make_tensor_value_info("scores", floats, ["rows", classes])
        graph = helper.make_graph(self._nodes, "resnet", [image], [scores], self._initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        data: bytes = model.SerializeToString()
        return data
