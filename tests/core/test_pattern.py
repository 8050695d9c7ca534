"""Regular expressions of users and files."""

import re
import time

import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.pattern import LONGEST, SECONDS, Pattern


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (r".*\.(bias|scale)", "blocks.3.norm1.bias"),
        (r"(.*\.)?(q_proj|v_proj)", "layers.1.self_attn.v_proj"),
        (r"blocks\.[0-3]\..*", "blocks.4.attn.qkv.kernel"),
        (r"(?!head)\w+", "head"),
        (r"norm|norm1", "norm1"),
        (r"(?i:HEAD).*", "head.kernel"),
    ],
)
def test_it_matches_what_re_matches(text, name):
    assert Pattern(text).matches(name) == bool(re.fullmatch(text, name))


def test_an_expression_without_an_end_is_given_up():
    began = time.monotonic()
    with pytest.raises(UserError, match=r"target_modules '.*' takes more than 2 s for 'aaa"):
        Pattern("(((a{1,1000}){1,1000}){1,1000})b", "target_modules").matches("a" * 40 + "b" + "c")
    assert time.monotonic() - began < 10 * SECONDS  # the machine may be busy; Python's own matcher needs years


@pytest.mark.parametrize("text", ["[", "(", "a{2,1}", "\\", "(" * 5000 + ")" * 5000])
def test_what_is_none_is_named(text):
    with pytest.raises(UserError, match=r"the pattern '.*' is not a regular expression"):
        Pattern(text)


def test_long_ones_are_refused():
    with pytest.raises(UserError, match=f"has {LONGEST + 1} characters; at most {LONGEST}"):
        Pattern("a" * (LONGEST + 1))
