"""The exception for invalid input, and what any exception says in one line."""


class InputError(ValueError):
    """Raised for input that the user can fix: what is wrong, where, and how to fix it, in one line.

    Commands print its message and exit with 1.
    """


def one_line(error: BaseException, kind: bool = False) -> str:
    """What an exception says, on one line of at most 200 characters; its class where it says nothing, or with `kind`.

    >>> one_line(KeyError("a")), one_line(ValueError("a\\n  b")), one_line(OSError())
    ("'a'", 'a b', 'OSError')
    >>> one_line(ValueError("a"), kind=True)
    'ValueError: a'
    """
    text = f"{type(error).__name__}: {error}" if kind else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
