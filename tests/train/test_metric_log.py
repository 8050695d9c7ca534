"""metrics.jsonl after damage: what can be read stays, up to the checkpoint, and what is lost is counted."""

import json
import os

import pytest

from jaxdino.train.metric_log import MetricLog, records
from jaxdino.train.progress import Progress

FILE = "metrics.jsonl"


def record(step: int) -> dict:
    return {"stage": "a", "step": step, "loss": 1 / step, "learning_rates": {"head": 0.1}}


def steps(folder) -> list[int]:
    return [found["step"] for found in records(folder / FILE)]


@pytest.fixture
def run(tmp_path):
    """The folder of a run of 8 steps, each in metrics.jsonl, and its progress at the checkpoint of step 6."""
    log, at = MetricLog(tmp_path, Progress(), pytest.fail), Progress()
    for step in range(1, 9):
        log.write(record(step))
        if step == 6:
            at.step = 6
            log.mark(at)
    log.close()
    return tmp_path, at


def nul(content: bytes) -> bytes:
    start = content.index(b'"step": 3')
    return content[:start] + b"\0" * 30 + content[start + 30 :]


def nul_over_a_line_break(content: bytes) -> bytes:
    start = content.index(b'"step": 3')
    return content[:start] + b"\0" * 100 + content[start + 100 :]


def half_a_line(content: bytes) -> bytes:
    return content[: content.index(b'"step": 5')]


def zeros_at_the_end(content: bytes) -> bytes:
    start = content.index(b'"step": 5')
    return content[:start] + b"\0" * (len(content) - start)


def other_bytes(content: bytes) -> bytes:
    return content.replace(b'"step": 2', b'"st\xff\xfe": 2')


def another_number(content: bytes) -> bytes:
    return content.replace(b'"loss": 0.5', b'"loss": 0.6')


def a_line_less(content: bytes) -> bytes:
    return b"".join(line for line in content.splitlines(True) if b'"step": 2' not in line)


def nested(content: bytes) -> bytes:
    return content.replace(b'"step": 4', b'"x":' + b"[" * 100_000)


def of_another_form(content: bytes) -> bytes:
    return content.replace(b'"learning_rates": {"head": 0.1}', b'"learning_rates": [         1.0]', 1)


DAMAGE = [
    (nul, "1 of 6 lines", [1, 2, 4, 5, 6]),
    (nul_over_a_line_break, "2 of 6 lines", [1, 2, 5, 6]),
    (half_a_line, "2 of 6 lines", [1, 2, 3, 4]),
    (zeros_at_the_end, "2 of 6 lines", [1, 2, 3, 4]),
    (other_bytes, "1 of 6 lines", [1, 3, 4, 5, 6]),
    (another_number, "it was changed after the run wrote it; its 6 lines up to step 6", [1, 2, 3, 4, 5, 6]),
    (a_line_less, "1 of 6 lines", [1, 3, 4, 5, 6]),
    (nested, "1 of 6 lines", [1, 2, 3, 5, 6]),
    (of_another_form, "1 of 6 lines", [2, 3, 4, 5, 6]),
    (lambda content: b"", "6 of 6 lines", []),
    (lambda content: os.urandom(4000), "6 of 6 lines", []),
]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("damage", "words", "left"), DAMAGE)
def test_what_can_be_read_is_kept_up_to_the_checkpoint(run, damage, words, left, known):
    folder, at = run
    damaged = damage((folder / FILE).read_bytes())
    (folder / FILE).write_bytes(damaged)
    if not known:  # a checkpoint of an earlier version
        at.log_sha256, at.log_lines = "", 0
    lines = []
    log = MetricLog(folder, at, lines.append)
    assert steps(folder) == left
    if known:
        assert len(lines) == 1 and words in lines[0] and "metrics.jsonl.damaged" in lines[0]
        assert (folder / "metrics.jsonl.damaged").read_bytes() == damaged
    log.write(record(7))
    log.mark(at)
    log.close()
    MetricLog(folder, at, pytest.fail).close()
    assert steps(folder) == [*left, 7]


def test_a_sound_file_is_cut_at_the_checkpoint_without_a_word(run):
    folder, at = run
    with (folder / FILE).open("ab") as file:
        file.write(b'{"stage": "a", "st')  # as after a kill
    MetricLog(folder, at, pytest.fail).close()
    assert steps(folder) == [1, 2, 3, 4, 5, 6] and [path.name for path in folder.iterdir()] == [FILE]
    (folder / FILE).write_bytes(b"\0" * 9)
    MetricLog(folder, Progress(), pytest.fail).close()  # a run without a checkpoint starts over
    assert (folder / FILE).read_bytes() == b""


def test_an_earlier_damaged_file_is_not_overwritten(run):
    folder, at = run
    for number in ("", "2"):
        (folder / FILE).write_bytes(json.dumps(number).encode())
        MetricLog(folder, at, print).close()
        assert (folder / f"{FILE}.damaged{number}").read_bytes() == json.dumps(number).encode()
