"""The one exception for bad input: what is wrong, where, and how to mend it, in one line."""


class InputError(ValueError):
    """Raised for input that a person can mend; commands print its message as one line and exit with 1."""
