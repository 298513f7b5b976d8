"""Stock tritonclient asks once: `named_tensors_session.py ADDRESS FOLDER MODEL`.

Reads `inputs.npz` from FOLDER (arrays of strings travel as BYTES, arrays of dtype `S` as bytes), prints as JSON the
model's metadata, and the outputs as lists or what the error says. Judges nothing; the test that started it does.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def tensor(name, array):
    array = array.astype(np.object_) if array.dtype.kind in "US" else array
    made = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def plain(array):
    if array.dtype == np.object_:
        return [[item.decode() for item in np.atleast_1d(row)] for row in array]
    return array.tolist()


def main(address: str, folder: Path, model: str) -> None:
    client = triton.InferenceServerClient(address)
    found = {"metadata": client.get_model_metadata(model, as_json=True)}
    arrays = np.load(folder / "inputs.npz")
    try:
        answer = client.infer(model, [tensor(name, arrays[name]) for name in arrays.files], client_timeout=60)
        names = [output.name for output in answer.get_response().outputs]
        found["outputs"] = {name: plain(answer.as_numpy(name)) for name in names}
    except InferenceServerException as error:
        found["error"] = [error.status(), error.message()]
    print(json.dumps(found))


main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
