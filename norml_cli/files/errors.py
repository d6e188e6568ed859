"""The one error a user sees: a clear line and exit code 2."""

import re


class UserError(Exception):
    """Something the user can mend.

    The text says what was wrong, where (file and key), and what to do next. `app` prints it without a traceback
    and exits with code 2.
    """


_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")  # what Pillow and others call the bytes they are given
LONGEST_WORD = 120  # characters of a user's word that a message repeats
LONGEST_LINE = 1000  # chosen: a message is read by a person; a path may have a few hundred characters


def plain(text: object, longest: int = LONGEST_WORD) -> str:
    """`text` on one line of a terminal: control characters and lone bytes escaped, the middle cut from a long one."""
    words = str(text)
    if len(words) > longest:
        words = f"{words[: longest // 2]}...{words[-(longest // 4) :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def counted(n: int, noun: str) -> str:
    """'1 step', '2,000 steps'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def reason(error: BaseException) -> str:
    """What another library's error says, on one line; its kind where it says nothing."""
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return _OBJECT.sub("its bytes", " ".join(str(text).split())) or type(error).__name__
