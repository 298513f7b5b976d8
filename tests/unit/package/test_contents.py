import pytest

from serving.errors import PackageError
from serving.package import Waiver
from serving.types import Datatype, Signature, TensorSpec
from tests.support.packages import contents

LABEL = TensorSpec("label", Datatype.INT64, (-1,))


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "a\\b", "a\nb", "a" * 256, "caf\udce9"])
def test_a_name_that_no_folder_should_have_is_refused(name):
    with pytest.raises(PackageError, match="the model"):
        contents(name=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {"z": ("a",)}}, "columns are given for 'z', the signature has x"),
        ({"columns": {"x": ("a", "b")}}, "columns of 'x' number 2, its last dimension is 4"),
        ({"columns": {"x": ()}}, "columns of 'x' number 0"),
        ({"columns": {"x": ("a", "a", "b", "c")}}, "name one twice"),
        ({"columns": {"x": ("", "a", "b", "c")}}, "has 0 characters"),
        ({"labels": {"y": ("a",)}}, "labels of 'y' number 1, its last dimension is 4"),
        ({"passes": ("",)}, "a pass or waiver has 0 characters"),
        ({"waivers": (Waiver("parity", ""),)}, "a pass or waiver has 0 characters"),
        ({"signature": Signature((), (), batchable=False)}, "has no outputs"),
        ({"signature": Signature((), (LABEL, LABEL), batchable=False)}, "names an output twice"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_contents_that_contradict_themselves_are_refused(change, message):
    with pytest.raises(PackageError, match=message):
        contents(**change)


def test_the_classes_of_a_label_output_can_be_named():
    signature = Signature(contents().signature.inputs, (LABEL,), batchable=True)
    assert contents(signature=signature, labels={"label": ("no", "yes")}).labels == {"label": ("no", "yes")}


def test_an_input_of_one_column_has_one_name():
    spec = TensorSpec("age", Datatype.FP32, (-1, 1))
    signature = Signature((spec,), (LABEL,), batchable=True)
    assert contents(signature=signature, columns={"age": ("age",)}, labels={}).columns == {"age": ("age",)}
