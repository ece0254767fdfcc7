"""The exception for invalid input: what is wrong, where, and how to fix it, in one line."""


class InputError(ValueError):
    """Raised for input that the user can fix; commands print its message as one line and exit with 1."""
