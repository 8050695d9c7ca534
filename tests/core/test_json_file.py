"""The one reader of JSON: what it refuses, with the place, and that nobody reads JSON in another way."""

import ast
import json
import os
from pathlib import Path

import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import MAX_DEPTH, parse_json, read_json

ROOT = Path(__file__).parents[2]
READERS = ("json.load", "json.loads", "json.JSONDecoder")


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON: Expecting property name"),
        ("", "not valid JSON: Expecting value"),
        (nested(MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} levels deep"),
        (nested(200_000), f"nested more than {MAX_DEPTH} levels deep"),
        ('{"a":' * 50_000, f"nested more than {MAX_DEPTH} levels deep"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[1e999]", "the number 1e999 is too large"),
        (f"[{1 << 64}]", "beyond 64 bits"),
        (f"[-{'9' * 10_000}]", "beyond 64 bits"),
        (b'{"a": "\xff\xfe"}', "not valid text"),
        (b"\0\0\0\0\0", "not valid"),
        (b'{"a": 1}\0\0\0', "not valid JSON"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(UserError) as error:
        parse_json(text, "the.json")
    assert str(error.value).startswith("the.json: ") and words in str(error.value)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value", [{"a": [1, -2.5, None, True, "ä\u2028"]}, [(1 << 64) - 1], 1e308, json.loads(nested(MAX_DEPTH)), "😀"]
)
def test_what_is_read(value, tmp_path):
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / "a.json").write_bytes(text.encode(encoding))
            assert read_json(tmp_path / "a.json") == value


def test_numbers_of_other_programs():
    text = f'{{"a": Infinity, "b": 1e999, "c": 1{"0" * 30}}}'
    assert parse_json(text, "a", any_number=True) == {"a": float("inf"), "b": float("inf"), "c": 10**30}
    with pytest.raises(UserError, match="not valid JSON"):
        parse_json(f"[{'1' * 10_000}]", "a", any_number=True)


@pytest.mark.parametrize(("text", "words"), [("[]", "a list"), ("null", "null"), ("1", "a number"), ('""', "a text")])
def test_the_type_is_checked(text, words):
    with pytest.raises(UserError, match=f"a: must be an object, not {words}"):
        parse_json(text, "a", dict)


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_text(" " * 100)
    for name, words in (
        ("pipe", "not a file"),
        (".", "Is a directory"),
        ("none", "No such file"),
        ("a\0b", "embedded null"),
        ("a" * 300, "File name too long"),
        ("large", "100 bytes are above the limit of 50"),
    ):
        with pytest.raises(UserError, match=words):
            read_json(tmp_path / name, max_bytes=50)
    with pytest.raises(UserError, match="not a file"):
        read_json("/dev/zero")


@pytest.mark.parametrize("folder", ["jaxdino", "convert"])
def test_nobody_else_reads_json(folder):
    others = []
    for file in (ROOT / folder).rglob("*.py"):
        calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        reads = (one for one in calls if isinstance(one, ast.Attribute) and ast.unparse(one) in READERS)
        others += [f"{file.relative_to(ROOT)}:{one.lineno}" for one in reads if file.name != "json_file.py"]
    assert not others, f"use jaxdino.core.json_file: {others}"
