"""Words of messages: the first few of a list, and counts."""

import pytest

from jaxdino.core.words import counted, few


@pytest.mark.parametrize(
    ("items", "kind", "words"),
    [
        ([], "", ""),
        (["a", "b"], "", "a, b"),
        (["a", "b", "c"], "", "a, b and 1 more"),
        ([1, 2, 3, 4], "values", "1, 2 and 2 more values"),
    ],
)
def test_the_first_few(items, kind, words):
    assert few(items, 2, kind) == words


def test_counts_above_zero():
    assert counted({"hidden": 3, "empty": 0, "not an image (.txt)": 1}) == "3 hidden, 1 not an image (.txt)"
    assert counted({}) == ""
