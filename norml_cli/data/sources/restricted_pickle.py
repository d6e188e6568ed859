"""Pickled numpy arrays and scalars in builtin containers, read without calling anything that the pickle names.

A pickle is a program: it names functions and has them called. The few names by which numpy pickles an array lead to
stand-ins here, which take plain values and build the array themselves, so that neither numpy's own unpickling (which
trusts its input) nor anything else is ever called. Every other name is refused before anything is done with it.

The unpickler is the standard library's in Python, not its twin in C: that one gives a pickle of a few bytes gigabytes
of memory (a list as long as the largest number under which something is remembered), and copies Python 2's texts, so
that an array takes twice its size. The few ten thousand steps of a pickled data set take a fraction of a second.
"""

import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from norml_cli.files.errors import reason

_DAMAGED = (  # what the unpickler and the stand-ins make of bytes that are no pickle of arrays
    pickle.UnpicklingError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    AssertionError,
    struct.error,
)
_INTEGERS = re.compile(r"^[iu][1248]$")
_SCALARS = re.compile(r"^([iu][1248]|f[248]|b1|U\d{1,3}|S\d{1,3})$")
_LONGEST_RANGE = 10_000_000  # chosen: over a hundred times mini-ImageNet's images
_LONGEST_NAME = 60  # characters of a refused name that a message repeats


class _Refused(Exception):  # noqa: N818 - says what was done
    """The pickle asks for what no array needs; the text says for what."""


class PickledArray:
    """An array of integers as the pickle holds it; `value` is complete once the pickle has been read."""

    __slots__ = ("value",)

    def __init__(self, value: NDArray[Any] | None = None) -> None:
        self.value: NDArray[Any] = np.empty(0, np.uint8) if value is None else value

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state  # as numpy.ndarray.__reduce__ gives it
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def load(file: BinaryIO) -> Any:
    """What the pickle in `file` (protocols 0 to 5) holds, each array as a `PickledArray`.

    Texts that Python 2 wrote are bytes. Raises ValueError with one line for a pickle that names anything else, is
    damaged or holds arrays of anything but integers, and OSError if `file` cannot be read.
    """
    try:
        return _Unpickler(file, encoding="bytes").load()
    except _Refused as error:
        raise ValueError(str(error)) from None
    except EOFError:
        raise ValueError("it ends too early") from None
    except KeyError:
        raise ValueError("it is no pickle, or a damaged one") from None
    except _DAMAGED as error:
        raise ValueError(f"it is damaged ({reason(error)})") from None


class _Dtype:
    """A stand-in for numpy.dtype: the type of an array of integers, or of a scalar."""

    __slots__ = ("text", "value")

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.text = code.decode() if isinstance(code, bytes) else code
        if not _SCALARS.match(self.text):
            self.refuse()
        self.value = np.dtype(self.text)

    def refuse(self) -> None:
        raise _Refused(f"it holds an array of type {self.text!r:.20}, and only integers are read")

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("it holds an array that is not of plain integers")
    if not _INTEGERS.match(dtype.text):
        dtype.refuse()
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    """A numpy scalar as the plain number or text that it is."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or len(data) != dtype.value.itemsize:
        raise _Refused("it holds a scalar that is no plain number or text")
    return np.frombuffer(data, dtype.value)[0].item()


def _plain_list(items: Any = ()) -> list[Any]:
    """A set as a list, since to hash what it holds is not safe (see `_Mapping`)."""
    if not isinstance(items, list | tuple):
        raise _Refused("it makes a container of what is none")
    return list(items)


def _range(*bounds: Any) -> list[int]:
    """A range as the list of its numbers, no longer than an array of images has rows."""
    if not all(type(bound) is int for bound in bounds) or len(range(*bounds)) > _LONGEST_RANGE:
        raise _Refused("it makes a range that names no images")
    return list(range(*bounds))


def _mapping(pairs: Any = ()) -> "_Mapping":
    """An OrderedDict; Python 2 gives its pairs, Python 3 sets them afterwards."""
    made = _Mapping()
    for key, value in _plain_list(pairs):
        made[key] = value
    return made


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    return PickledArray(_array(data, dtype, shape, order))


def _latin1(text: Any, encoding: Any) -> bytes:
    """The bytes that Python 3 writes as text in protocol 2."""
    if not isinstance(encoding, str | bytes) or encoding not in {"latin1", b"latin1"}:
        raise _Refused("it encodes a text by other than latin1")
    return bytes(text.encode("latin1"))


def _nothing(*_: Any) -> Any:
    raise _Refused("it makes an array without its content")


class _StandIn:
    """One callable that a pickle may name; it has no attributes that the pickle could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise _Refused("it changes what it names")


_STAND_INS = {
    "numpy.ndarray": _StandIn(_nothing),
    "numpy.dtype": _StandIn(_Dtype),
    "_codecs.encode": _StandIn(_latin1),
    "collections.OrderedDict": _StandIn(_mapping),
    "collections.defaultdict": _StandIn(lambda *_: _mapping()),  # what it makes of a missing key is never asked
    **{
        f"{builtins}.{name}": _StandIn(_plain_list)
        for builtins in ("builtins", "__builtin__")
        for name in ("list", "tuple", "set", "frozenset")
    },
    "collections.deque": _StandIn(lambda items=(), *_: _plain_list(items)),
    **{
        f"{builtins}.{name}": _StandIn(_range)
        for builtins in ("builtins", "__builtin__")
        for name in ("range", "xrange")
    },
    **{f"{builtins}.dict": _StandIn(_mapping) for builtins in ("builtins", "__builtin__")},
    **{
        f"numpy.{core}.{name}": _StandIn(call)  # numpy 2 moved numpy.core to numpy._core
        for core in ("core", "_core")
        for name, call in (
            ("multiarray._reconstruct", lambda *_: PickledArray()),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}


class _Mapping(dict[str | bytes | int, Any]):
    """A mapping whose keys are texts and numbers: to hash a tuple nested deep enough would crash the interpreter."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | bytes | int):
            raise _Refused("it has a key that is neither text nor number")
        super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - see the top
    append: Callable[[Any], None]  # these four are the base class's, which its stubs leave out
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    stack: list[Any]

    def load_mapping(self) -> None:
        self.append(_Mapping())

    def load_old_mapping(self) -> None:
        items = self.pop_mark()
        self.append(_Mapping())
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][key] = value

    def load_buffer(self) -> None:
        """A bytearray's content as bytes, which are read once; a bytearray would be copied twice more."""
        self.append(self.read(*struct.unpack("<Q", self.read(8))))

    def load_set(self) -> None:
        """A set as a list: its items would be hashed, as a mapping's keys are."""
        self.append([])

    def load_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].extend(items)

    def load_frozen_set(self) -> None:
        items = self.pop_mark()  # which also changes where `append` leads
        self.append(items)

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,  # noqa: SLF001 - see the top
        pickle.EMPTY_SET[0]: load_set,
        pickle.ADDITEMS[0]: load_items,
        pickle.FROZENSET[0]: load_frozen_set,
        pickle.EMPTY_DICT[0]: load_mapping,
        pickle.DICT[0]: load_old_mapping,
        pickle.BYTEARRAY8[0]: load_buffer,
    }

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _STAND_INS:
            raise _Refused(f"it names {full_name[:_LONGEST_NAME]!r}, which no array needs")
        return _STAND_INS[full_name]
