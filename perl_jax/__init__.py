"""Permutation-enhanced RL for vision-language models, in JAX; imports little, since grading workers import it."""

import importlib.util
import sys
from pathlib import Path

__version__ = "0.1.0"


def _take_ours(name: str) -> None:
    """Imports the package `name` next to this one, so that no other package of that name on the path shadows it.

    Raises ImportError where another module of that name was already imported.
    """
    ours = (Path(__file__).parent.resolve().parent / name).resolve()
    if name in sys.modules:
        there = [*getattr(sys.modules[name], "__path__", [])] or [getattr(sys.modules[name], "__file__", "?")]
        if ours not in [Path(place).resolve() for place in there]:
            raise ImportError(
                f"perl_jax has a package {name!r} of its own, but {there[0]} was imported by that name before: "
                "rename that one, or use perl_jax in another process"
            )
        return
    file = ours / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(ours)])
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_take_ours("models")
_take_ours("configs")
