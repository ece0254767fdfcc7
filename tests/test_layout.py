"""The house: imports go one way, every module has its test, every config loads."""

import ast
import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("models", "perl_jax", "configs", "tests", "benchmarks", "launch")
MAY_IMPORT = {"models": {"models"}, "perl_jax": {"models", "perl_jax"}, "configs": {"configs"}}
MODULES = sorted(
    file.relative_to(REPOSITORY)
    for room in ("models", "perl_jax")
    for file in (REPOSITORY / room).rglob("*.py")
    if file.name != "__init__.py"
)
TESTED_ELSEWHERE = {  # module: the test that covers it, and why it has none of its own
    "models/errors.py": ("test_commands.py", "an exception; that it is one line and an exit code is tested there"),
    "models/qwen2_5_vl/attention.py": ("test_model.py", "part of the network, compared with transformers as a whole"),
    "models/qwen2_5_vl/layers.py": ("test_model.py", "part of the network"),
    "models/qwen2_5_vl/source.py": ("test_weights.py", "reads what weights.py loads"),
    "models/qwen2_5_vl/text.py": ("test_model.py", "part of the network"),
    "models/qwen2_5_vl/vision.py": ("test_model.py", "part of the network"),
    "perl_jax/training/batch.py": ("test_train.py", "one step's work, tested in whole steps"),
    "perl_jax/runtime/cli.py": ("test_commands.py", "how commands start"),
    "perl_jax/filtering/difficulty.py": ("test_filter.py", "asks what the filter goes by"),
    "perl_jax/evaluation/responses.py": ("test_evaluate.py", "asks and goes on; tested in whole evaluations"),
    "perl_jax/runtime/logs.py": ("test_train.py", "what a run leaves"),
    "perl_jax/training/metrics.py": ("test_train.py", "what a step says"),
    "perl_jax/planning/programs.py": ("test_plan.py", "what plan compiles"),
    "perl_jax/policy.py": ("test_train.py", "where a run starts; hub ids in test_commands.py"),
    "perl_jax/__main__.py": ("test_install.py", "the installed command"),
    "perl_jax/rewards/boxed.py": ("test_rewards.py", "the reward"),
}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    for file in (REPOSITORY / room).rglob("*.py"):
        ours = imported(file) & set(ROOMS)
        assert ours <= MAY_IMPORT[room], f"{file.relative_to(REPOSITORY)} imports {ours - MAY_IMPORT[room]}"


def imported(file: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_every_module_has_a_test():
    for module in map(str, MODULES):
        own = f"test_{Path(module).stem}.py"
        test, why = TESTED_ELSEWHERE.get(module, (own, "its own"))
        assert (REPOSITORY / "tests" / test).is_file(), f"{module}: no tests/{test} ({why})"
        assert test == own or not (REPOSITORY / "tests" / own).is_file(), f"{module} has a test: unlist it here"
    assert TESTED_ELSEWHERE.keys() <= set(map(str, MODULES))


@pytest.mark.parametrize("file", sorted((REPOSITORY / "configs").glob("[!_]*.py")), ids=lambda file: file.name)
def test_every_config_loads_and_says_what_it_is(file):
    spec = importlib.util.spec_from_file_location("config_under_test", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    assert config.is_locked and config.data.is_locked, "base.py's keys are all that there are"
    assert module.__doc__
    if file.name != "base.py":
        assert all(word in module.__doc__ for word in ("python -m perl_jax.train", "Hardware:", "Result:"))


def test_no_device_or_mesh_at_import_time():
    """A module that asks for devices when it is imported would start a backend in every worker."""
    for module in MODULES:
        for node in ast.parse((REPOSITORY / module).read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) and not is_main_guard(node):
                calls = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
                assert not {"jax.devices", "jax.make_mesh", "jax.device_count", "jax.local_devices"} & calls, module


def is_main_guard(node) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
