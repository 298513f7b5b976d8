from serving.registry.difference import ABSENT, Difference, differences


def test_differences_name_the_path_and_both_sides():
    before = {"a": 1, "b": {"c": [1, 2], "gone": None}, "same": [1]}
    after = {"a": 1.5, "b": {"c": [1, 3, 4]}, "same": [1], "new": {}}
    assert list(differences(before, after)) == [
        Difference("a", 1, 1.5),
        Difference("b.c[1]", 2, 3),
        Difference("b.c[2]", ABSENT, 4),
        Difference("b.gone", None, ABSENT),
        Difference("new", ABSENT, {}),
    ]


def test_true_is_not_one():
    assert list(differences({"a": True}, {"a": 1})) == [Difference("a", True, 1)]


def test_a_side_that_lacks_a_path_is_left_out_for_machines():
    assert Difference("a", ABSENT, None).describe() == {"path": "a", "after": None}
