"""The one error that a user sees: a clear line and exit code 2."""

import re


class UserError(Exception):
    """An error that the user can fix.

    The text says what was wrong, where (file and key), and what to do next. `app` prints it without a traceback and
    exits with code 2.
    """


_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")  # how Pillow and others print in-memory bytes
LONGEST_WORD = 120  # characters; messages shorten a longer word of the user's
LONGEST_LINE = 1000  # characters. Chosen: enough for a path of a few hundred, short enough to read


def plain(text: object, longest: int = LONGEST_WORD) -> str:
    """`text` on one line: control characters and undecodable bytes are escaped, and a long text loses its middle."""
    words = str(text)
    if len(words) > longest:
        words = f"{words[: longest // 2]}...{words[-(longest // 4) :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def counted(n: int, noun: str) -> str:
    """'1 step', '2,000 steps'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def reason(error: BaseException) -> str:
    """The message of another library's error, on one line. If it has none: the name of its type."""
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return _OBJECT.sub("its bytes", " ".join(str(text).split())) or type(error).__name__
