"""Words of messages: the first few of a list, and counts."""

import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.words import counted, few, percent, printable


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


def test_shares_in_per_cent():
    assert [percent(one) for one in (0.000123, 0.0999, 0.12345, 0.996, 1.0)] == ["0.012%", "10%", "12%", "100%", "100%"]


def test_counts_above_zero():
    assert counted({"hidden": 3, "empty": 0, "not an image (.txt)": 1}) == "3 hidden, 1 not an image (.txt)"
    assert counted({}) == ""


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\u202eb\u2028c", r"a\u202eb\u2028c"),
        ("\udcff.png", r"\udcff.png"),
        ("写真 é \u00a0 \U0001f600 1\n2", "写真 é \u00a0 \U0001f600 1\n2"),
    ],
)
def test_what_a_terminal_obeys_is_escaped(given, shown):
    assert printable(given) == shown == str(UserError(given))


def test_a_name_in_a_table_has_no_line_ends():
    assert printable("a\tb\n", keep="") == r"a\tb\n"


def test_long_quotes_and_lines_are_cut():
    message = str(UserError(f"the key {'a' * 5000 + 'b'!r} of the model's file; it's not {'known'!r}"))
    assert message.startswith("the key 'aaa") and message.endswith("ab' of the model's file; it's not 'known'")
    assert len(message) < 300 and "(4801 more characters)" in message
    lines = str(UserError("x" * 9000 + "\n" + "y" * 9000)).split("\n")
    assert len(lines) == 2 and all(len(line) < 2100 and "(7000 more characters)" in line for line in lines)


def test_ordinary_messages_stay_as_they_are():
    text = "it's the head's 'abc', isn't it: " + "a long explanation of many words, " * 20 + "'def'"
    assert str(UserError(text)) == text
