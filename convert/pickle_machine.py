"""A small interpreter for the pickle opcodes in checkpoints; it never imports modules or runs code.

Python's own unpickler can import modules, call functions and set attributes. This one supports values, containers and
a fixed list of names (convert/torch_names.py), whose calls run our own checked functions. The number of steps, the size
of integers and the memory of everything that is built are limited, so a hostile file ends in an error.
Source: the opcode table of CPython's Lib/pickletools.py.
"""

import struct
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from convert.torch_names import MAX_NAME, Callee, Standin, find_name
from jaxdino.core.errors import UserError

MAX_STEPS = 10_000_000
MAX_INTEGER_BYTES = 256
ROOM = 128 << 20
"""Bytes that a pickle may build in addition to twice its file's size. A checkpoint of 10,000 tensors takes 40 MB."""
STEP, MARK, MEMO, GLOBAL, CALL, STORAGE = 8, 40, 150, 500, 500, 400
PAIR, ENTRY, SLOT = 100, 64, 9
"""About what CPython 3.11 takes: for each opcode and some kinds of them; for an entry of a dictionary, of a set, and of
a list or tuple."""
EMPTY = {dict: 240, set: 240, frozenset: 240, list: 80, tuple: 64}
SCALARS = (str, bytes, int, float, type(None))
FAULTS = (
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    OverflowError,
    MemoryError,
    RecursionError,
    struct.error,
)


class Machine:
    """Run one pickle of at most `size` bytes from `stream`, which stops just after the pickle.

    `persistent` maps the id of a storage to our stand-in, `find` maps a name to its stand-in; `file_size` bytes are in
    the whole file, which limits the memory. UserError names the file `where`, and what was refused.
    """

    def __init__(
        self,
        stream: BinaryIO,
        size: int,
        persistent: Callable,
        where: str,
        find: Callable[..., object] = find_name,
        file_size: int = 0,
    ):
        self.find, self.room = find, ROOM + 2 * max(size, file_size)
        self.stream, self.left, self.persistent, self.where = stream, size, persistent, where
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        try:
            for _ in range(MAX_STEPS):
                code = self.take(1)
                if code == b".":
                    return self.stack.pop()
                if code not in OPCODES:
                    raise UserError(f"{self.where}: the pickle uses opcode {code!r}, which no checkpoint needs")
                self.weigh(STEP)
                OPCODES[code](self)
        except UserError:
            raise
        except FAULTS as error:
            raise UserError(f"{self.where}: the pickle inside is damaged: {error}") from error
        raise UserError(f"{self.where}: the pickle inside takes more than {MAX_STEPS} steps")

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise ValueError(f"it needs {length} more bytes, {self.left} are left: truncated?")
        data = self.stream.read(length)
        if len(data) != length:
            raise ValueError("it ends early: truncated?")
        self.left -= length
        return data

    def number(self, form: str):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        line = self.stream.readline(min(self.left, MAX_NAME) + 1)
        self.left -= len(line)
        if not line.endswith(b"\n") or self.left < 0:
            raise ValueError("a global's name does not end")
        return line[:-1].decode("utf-8")

    def weigh(self, size: int) -> None:
        """Count memory that is about to be taken, in bytes. What is freed again counts too."""
        self.room -= size
        if self.room < 0:
            raise UserError(f"{self.where}: the pickle inside takes far more memory than the file has bytes")

    def push(self, value: object, size: int = 32) -> None:
        """Put a value on the stack that takes `size` bytes."""
        self.weigh(size)
        self.stack.append(value)

    def pop(self):
        return self.stack.pop()

    def mark(self) -> None:
        self.weigh(MARK)
        self.marks.append(len(self.stack))

    def pop_mark(self) -> list:
        at = self.marks.pop()
        self.weigh(EMPTY[list] + SLOT * (len(self.stack) - at))
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def pop_last(self, count: int) -> list:
        if len(self.stack) < count:
            raise IndexError("its stack runs empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def top(self, kind: type):
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise TypeError(f"it fills an object that is not a {kind.__name__}")
        return self.stack[-1]

    def spend(self, *values: object) -> None:
        """Count what a call may copy of its arguments, because a few bytes can request a large value many times."""
        sizes = [len(v) * (1 if isinstance(v, str | bytes) else PAIR) for v in values if hasattr(v, "__len__")]
        self.weigh(CALL + sum(sizes))


def _text(machine: Machine, length: int) -> None:
    """Push a text; one that is not UTF-8 is kept with escapes."""
    data = machine.take(length)
    highest = int(np.frombuffer(data, np.uint8).max(initial=0))
    wide = 4 if highest >= 0xF0 else 2 if highest >= 0xC4 else 1  # one character above U+FFFF makes all four bytes wide
    machine.weigh(64 + length * wide)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        machine.weigh(16 * length)
        text = data.decode("utf-8", "backslashreplace")
    machine.push(text)


def _latin(machine: Machine, length: int) -> None:
    machine.weigh(64 + length)
    machine.push(machine.take(length).decode("latin1"))


def _bytes(machine: Machine, length: int) -> None:
    data = machine.take(length)
    machine.push(data, 64 + length)


def _tuple(machine: Machine, items: list) -> None:
    machine.push(tuple(items), EMPTY[tuple] + SLOT * len(items))


def _integer(machine: Machine, length: int) -> None:
    if not 0 <= length <= MAX_INTEGER_BYTES:
        raise ValueError(f"an integer of {length} bytes is refused (limit {MAX_INTEGER_BYTES})")
    machine.push(int.from_bytes(machine.take(length), "little", signed=True))


def _key(value: object):
    # Flat keys only: the hash of a deeply nested tuple recurses in C and would end the process.
    flat = isinstance(value, SCALARS) or (type(value) is tuple and all(isinstance(v, SCALARS) for v in value))
    if not flat:
        raise TypeError(f"a {type(value).__name__} cannot be a key of a dictionary or set")
    return value


def _set_items(machine: Machine, items: list) -> None:
    if len(items) % 2:
        raise ValueError("a key has no value")
    target = machine.top(dict)
    machine.weigh(PAIR * len(items) // 2)
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value


def _append(machine: Machine, items: list) -> None:
    machine.weigh(SLOT * len(items))
    machine.top(list).extend(items)


def _add(machine: Machine, items: list) -> None:
    machine.weigh(ENTRY * len(items))
    machine.top(set).update(_key(item) for item in items)


def _frozen(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.push(frozenset(map(_key, items)), EMPTY[frozenset] + ENTRY * len(items))


def _dict_from_mark(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.push({}, EMPTY[dict])
    _set_items(machine, items)


def _global(machine: Machine) -> None:
    module = machine.line()
    machine.push(machine.find(module, machine.line(), machine.where), GLOBAL)


def _stack_global(machine: Machine) -> None:
    module, name = machine.pop_last(2)
    if not (isinstance(module, str) and isinstance(name, str)):
        raise TypeError("a global's name is not text")
    machine.push(machine.find(module, name, machine.where), GLOBAL)


def _call(machine: Machine) -> None:
    callee, args = machine.pop_last(2)
    if not isinstance(callee, Callee) or type(args) is not tuple:
        raise TypeError(f"it calls a {type(callee).__name__}, which cannot be called")
    machine.spend(*args)
    machine.push(callee.call(*args))


def _build(machine: Machine) -> None:
    state = machine.pop()
    machine.spend(state)
    machine.top(Standin).set_state(state)


def _memoize(machine: Machine, index: int) -> None:
    machine.weigh(MEMO)
    machine.memo[index] = machine.stack[-1]


OPCODES: dict[bytes, Callable[[Machine], object]] = {
    # frame and stack
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    b"(": Machine.mark,
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.pop_mark(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"q": lambda m: _memoize(m, m.number("<B")),
    b"r": lambda m: _memoize(m, m.number("<I")),
    b"\x94": lambda m: _memoize(m, len(m.memo)),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    # scalars
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": lambda m: _integer(m, m.number("<B")),
    b"\x8b": lambda m: _integer(m, m.number("<i")),
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: _text(m, m.number("<I")),
    b"\x8c": lambda m: _text(m, m.number("<B")),
    b"\x8d": lambda m: _text(m, m.number("<Q")),
    b"U": lambda m: _latin(m, m.number("<B")),
    b"T": lambda m: _latin(m, m.number("<I")),
    b"C": lambda m: _bytes(m, m.number("<B")),
    b"B": lambda m: _bytes(m, m.number("<I")),
    b"\x8e": lambda m: _bytes(m, m.number("<Q")),
    b"\x96": lambda m: _bytes(m, m.number("<Q")),
    # containers
    b")": lambda m: m.push(()),
    b"t": lambda m: _tuple(m, m.pop_mark()),
    b"\x85": lambda m: _tuple(m, m.pop_last(1)),
    b"\x86": lambda m: _tuple(m, m.pop_last(2)),
    b"\x87": lambda m: _tuple(m, m.pop_last(3)),
    b"]": lambda m: m.push([], EMPTY[list]),
    b"l": lambda m: m.push(m.pop_mark()),
    b"a": lambda m: _append(m, m.pop_last(1)),
    b"e": lambda m: _append(m, m.pop_mark()),
    b"}": lambda m: m.push({}, EMPTY[dict]),
    b"d": _dict_from_mark,
    b"s": lambda m: _set_items(m, m.pop_last(2)),
    b"u": lambda m: _set_items(m, m.pop_mark()),
    b"\x8f": lambda m: m.push(set(), EMPTY[set]),
    b"\x90": lambda m: _add(m, m.pop_mark()),
    b"\x91": _frozen,
    # names, calls, storages
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _call,
    b"\x81": _call,
    b"b": _build,
    b"Q": lambda m: m.push(m.persistent(m.pop()), STORAGE),
}
