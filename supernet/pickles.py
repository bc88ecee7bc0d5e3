"""Reading pickles as data: nothing they name is imported, nothing they ask for is called."""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False, slots=True)
class Request:
    """What a pickle asks to have made; it is written down and never made.

    Args:
        name: the function or class, ``module.name``; "persistent" for what lies outside of the pickle.
        args: its arguments; None until it is called.
        state: the state that the result would be given.
    """

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None


def read_pickle(raw: bytes, names: Container[str], max_steps: int) -> Any:
    """The plain values and containers in a pickle, and a `Request` for whatever else it asks for.

    The instructions are followed one by one, and each makes at most one small object: memory and time stay within a
    small multiple of the length. Keys are text, whole numbers of 64 bits, or tuples of up to four of these; others
    could take for ever to hash.

    Args:
        raw: the pickle.
        names: functions and classes that it may ask for.
        max_steps: instructions that are followed, at most.

    Raises:
        ValueError: it is damaged, too long, or asks for something that is not in ``names``.
    """
    machine = _Machine(names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a backslash in a name
        return _follow(machine, raw, max_steps)


def _follow(machine: _Machine, raw: bytes, max_steps: int) -> Any:
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
            if number >= max_steps:
                raise ValueError(f"it has more than {max_steps:,} instructions")
            if number and opcode.name == "PROTO":
                raise ValueError("it begins a second time")
            machine.follow(opcode.name, argument)
        return machine.stack.pop()
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, struct.error):
        raise ValueError("its instructions do not fit together") from None


class _Machine:
    """The stack, the open groups and the memory of a pickle."""

    def __init__(self, names: Container[str]) -> None:
        self.names = names
        self.stack: list[Any] = []
        self.groups: list[list[Any]] = []
        self.memory: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        """Follow one instruction; it leaves its result on the stack."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            self.groups.append(stack)
            self.stack = []
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack[len(stack) - size :] = [tuple(self.last(size))]
        elif name == "TUPLE":
            items = self.group()
            self.stack.append(tuple(items))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memory[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memory[len(self.memory)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memory[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            self.build(name, argument)

    def build(self, name: str, argument: Any) -> None:
        """Fill a container, or write a request down."""
        if name == "APPEND":
            self.extend([self.stack.pop()])
        elif name == "APPENDS":
            self.extend(self.group())
        elif name == "SETITEM":
            value, key = self.stack.pop(), self.stack.pop()
            self.update([key, value])
        elif name == "SETITEMS":
            self.update(self.group())
        elif name in ("LIST", "DICT"):  # protocol 0
            items = self.group()
            self.stack.append([] if name == "LIST" else {})
            (self.extend if name == "LIST" else self.update)(items)
        elif name == "GLOBAL":
            self.ask(argument.replace(" ", ".", 1))
        elif name == "STACK_GLOBAL":
            attribute, module = self.stack.pop(), self.stack.pop()
            self.ask(f"{module:s}.{attribute:s}")
        elif name == "REDUCE":
            arguments = self.stack.pop()
            self.stack.append(_call(self.stack.pop(), arguments))
        elif name == "BINPERSID":
            self.stack.append(Request("persistent", (self.stack.pop(),)))
        elif name == "BUILD":
            state = self.stack.pop()
            _give_state(self.stack[-1], state)
        else:
            raise ValueError(f"it uses the instruction {name}, which plain values do not need")

    def last(self, size: int) -> list[Any]:
        """The last values on the stack."""
        if len(self.stack) < size:
            raise IndexError
        return self.stack[len(self.stack) - size :]

    def group(self) -> list[Any]:
        """Close the group that was opened last."""
        items, self.stack = self.stack, self.groups.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        """Add to the list on the stack."""
        if type(self.stack[-1]) is not list:
            raise TypeError
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        """Add to the dictionary on the stack; keys and values take turns."""
        keys = items[::2]
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise TypeError
        if not all(_is_key(key) for key in keys):
            raise ValueError("a key in it is neither text nor a whole number, nor a few of them")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def ask(self, name: str) -> None:
        """Write down that something is asked for by name."""
        if name not in self.names:
            raise ValueError(f"it asks for {name[:80]}, which it does not need")
        self.stack.append(Request(name))


def _is_key(key: Any) -> bool:
    """Whether it hashes at once, however often: long numbers and tuples are hashed anew each time."""
    if type(key) is tuple:
        return len(key) <= 4 and all(type(part) is not tuple and _is_key(part) for part in key)
    return type(key) is str or (type(key) is int and key.bit_length() <= 64)


def _call(asked: Any, arguments: Any) -> Any:
    """The result of a call: two harmless functions that plain values go by are carried out."""
    if type(asked) is not Request or asked.args is not None or type(arguments) is not tuple:
        raise TypeError
    if asked.name == "collections.OrderedDict" and not arguments:
        return {}
    if asked.name == "_codecs.encode":  # how Python 3 writes bytes for Python 2
        text, encoding = arguments
        if encoding != "latin1":
            raise ValueError("its bytes are written in an unknown way")
        return text.encode("latin1")
    return Request(asked.name, arguments)


def _give_state(made: Any, state: Any) -> None:
    if type(made) is Request and made.args is not None:
        made.state = state
    elif type(made) is not dict or type(state) is not dict or set(state) != {"_metadata"}:
        raise TypeError  # only PyTorch's dictionaries of parameters carry one


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Instructions that put their argument on the stack."""

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
"""Instructions that put something on the stack that is always the same."""

_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
