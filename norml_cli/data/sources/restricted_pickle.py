"""Read pickled numpy arrays and scalars in builtin containers, without calling anything that the pickle names.

A pickle is a program: it names functions and calls them. Here, the few names that numpy needs to pickle an array lead
to stand-ins, which take plain values and build the array themselves. Numpy's own unpickling, which trusts its input, is
never called. Every other name is refused.

It uses the standard library's unpickler in Python, not the one in C. With the C one, a pickle of a few bytes can
allocate gigabytes (its memo is a list as long as the largest memo number), and Python 2's texts are copied, so that an
array takes twice its size. A pickled data set has some ten thousand steps, which take a fraction of a second.
"""

import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from norml_cli.files.errors import reason

_DAMAGED = (  # what the unpickler and the stand-ins raise for bytes that are not a pickle of arrays
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
_LONGEST_NAME = 60  # characters of a refused name that a message shows


class _Refused(Exception):  # noqa: N818 - names what was done
    """The pickle needs something that no array needs. The text says what."""


class PickledArray:
    """An array of integers in the pickle. `value` is complete once the whole pickle has been read."""

    __slots__ = ("value",)

    def __init__(self, value: NDArray[Any] | None = None) -> None:
        self.value: NDArray[Any] = np.empty(0, np.uint8) if value is None else value

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state  # the state of numpy.ndarray.__reduce__
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


def load(file: BinaryIO) -> Any:
    """The content of the pickle in `file` (protocols 0 to 5), with each array as a `PickledArray`.

    Texts written by Python 2 are bytes. Raises ValueError with one line for a pickle that is damaged, names anything
    else, or has arrays that are not of integers; and OSError if `file` cannot be read.
    """
    try:
        return _Unpickler(file, encoding="bytes").load()
    except _Refused as error:
        raise ValueError(str(error)) from None
    except EOFError:
        raise ValueError("it ends too early") from None
    except KeyError:
        raise ValueError("it is not a pickle, or damaged") from None
    except _DAMAGED as error:
        raise ValueError(f"it is damaged ({reason(error)})") from None


class _Dtype:
    """A stand-in for numpy.dtype, for arrays of integers and for scalars."""

    __slots__ = ("text", "value")

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.text = code.decode() if isinstance(code, bytes) else code
        if not _SCALARS.match(self.text):
            self.refuse()
        self.value = np.dtype(self.text)

    def refuse(self) -> None:
        raise _Refused(f"it has an array of type {self.text!r:.20}, but only integers are allowed")

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.value = self.value.newbyteorder(order)


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("it has an array that is not of plain integers")
    if not _INTEGERS.match(dtype.text):
        dtype.refuse()
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


def _scalar(dtype: Any, data: Any) -> Any:
    """A numpy scalar as a plain Python number or text."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes) or len(data) != dtype.value.itemsize:
        raise _Refused("it has a scalar that is not a plain number or text")
    return np.frombuffer(data, dtype.value)[0].item()


def _plain_list(items: Any = ()) -> list[Any]:
    """A set as a list: hashing its items is not safe, see `_Mapping`."""
    if not isinstance(items, list | tuple):
        raise _Refused("it makes a container from something else")
    return list(items)


def _range(*bounds: Any) -> list[int]:
    """A range as the list of its numbers, of limited length."""
    if not all(type(bound) is int for bound in bounds) or len(range(*bounds)) > _LONGEST_RANGE:
        raise _Refused("it makes a range that cannot be image numbers")
    return list(range(*bounds))


def _mapping(pairs: Any = ()) -> "_Mapping":
    """A stand-in for OrderedDict. Python 2 passes the pairs here; Python 3 sets them later."""
    made = _Mapping()
    for key, value in _plain_list(pairs):
        made[key] = value
    return made


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    return PickledArray(_array(data, dtype, shape, order))


def _latin1(text: Any, encoding: Any) -> bytes:
    """Bytes, which Python 3 writes as text in protocol 2."""
    if not isinstance(encoding, str | bytes) or encoding not in {"latin1", b"latin1"}:
        raise _Refused("it uses a text encoding other than latin1")
    return bytes(text.encode("latin1"))


def _refuse_construction(*_: Any) -> Any:
    raise _Refused("it makes an array without its content")


class _StandIn:
    """A callable that a pickle may name. It has no attributes that a pickle could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise _Refused("it changes what it names")


_STAND_INS = {
    "numpy.ndarray": _StandIn(_refuse_construction),
    "numpy.dtype": _StandIn(_Dtype),
    "_codecs.encode": _StandIn(_latin1),
    "collections.OrderedDict": _StandIn(_mapping),
    "collections.defaultdict": _StandIn(lambda *_: _mapping()),  # its default factory is never called
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
    """A mapping with texts and whole numbers as keys. Hashing a deeply nested tuple would crash the interpreter."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | bytes | int):
            raise _Refused("it has a key that is neither text nor a whole number")
        super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - see the top
    append: Callable[[Any], None]  # these four belong to the base class; its stubs lack them
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
        """Read a bytearray's content as bytes, which saves two copies."""
        self.append(self.read(*struct.unpack("<Q", self.read(8))))

    def load_set(self) -> None:
        """Read a set as a list, so that its items are not hashed."""
        self.append([])

    def load_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].extend(items)

    def load_frozen_set(self) -> None:
        items = self.pop_mark()  # first: it also changes what `append` appends to
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
