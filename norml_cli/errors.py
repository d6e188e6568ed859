"""The one error a user sees: a clear line and exit code 2."""


class UserError(Exception):
    """Something the user can mend.

    The text says what was wrong, where (file and key), and what to do next. `app` prints it without a traceback
    and exits with code 2.
    """


def reason(error: BaseException) -> str:
    """What another library's error says, on one line; its kind where it says nothing."""
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(text).split()) or type(error).__name__
