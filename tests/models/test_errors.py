"""What an exception says, in one line."""

import doctest

from models import errors


def test_examples():
    assert doctest.testmod(errors).failed == 0 and doctest.testmod(errors).attempted == 2


def test_a_line_is_short():
    assert errors.one_line(ValueError("a\n" * 1000)) == "a " * 100
    assert issubclass(errors.InputError, ValueError)
