import numpy as np
import onnxruntime as ort

from bench.matmul_model import INPUT, write_matmul


def test_the_model_is_dense_layers_with_relu(tmp_path):
    path = write_matmul(tmp_path, "dense", width=8, layers=3)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    random = np.random.default_rng(0)
    expected = rows
    for _ in range(3):
        expected = np.maximum(expected @ (random.standard_normal((8, 8)) * 0.5).astype(np.float32), 0)
    (found,) = session.run(None, {INPUT: rows})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.any()
