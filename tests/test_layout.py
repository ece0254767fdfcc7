"""The house: what may import what, every module with its test, every config that loads."""

import ast
import graphlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from environment import REPOSITORY

import models

ROOMS = ("models", "perl_jax", "configs", "tests", "benchmarks", "launch")
MAY_IMPORT = {"models": {"models"}, "perl_jax": {"models", "perl_jax"}, "configs": {"configs"}}

# perl_jax, from what knows least to what knows most. A module imports from its own room and from the layers above its
# line; rooms of one line do not know each other. `permute` stands below `records`, which tries each record in another
# order before it is stored; `training` above `evaluation`, whose rule of the same answer its held-out questions take.
READING_PATH = ("train", "permute", "grpo", "rollout", "update")
COMMANDS = ("train", "prepare", "filter", "evaluate", "report", "export", "sample", "plan")
LAYERS = (
    ("runtime", "mesh", "symbols"),
    ("permute",),
    ("records", "answers", "engine"),
    ("rewards", "grpo"),
    ("rollout", "update", "policy", "grading"),
    ("data",),
    ("curation",),
    ("benchmarks",),
    ("evaluation",),
    ("training",),
    ("filtering",),
    ("exporting", "planning"),
    COMMANDS,
)
ANYWHERE = {"perl_jax.evaluation.statistics": "formulas alone, which import nothing of ours"}

FILES = sorted(
    file.relative_to(REPOSITORY) for room in ("models", "perl_jax") for file in (REPOSITORY / room).rglob("*.py")
)
MODULES = [file for file in FILES if file.name not in ("__init__.py", "__main__.py")]
TESTED_ELSEWHERE = {  # module: the test that covers it, and why it has none of its own
    "models/atomic_directory.py": ("perl_jax/runtime/test_files.py", "which gives it to all of perl_jax"),
    "models/attention.py": ("models/test_network.py", "part of the network, compared as a whole"),
    "models/config_json.py": ("models/qwen2_5_vl/test_config.py", "what the families' configs are read with"),
    "models/decoder.py": ("models/test_network.py", "part of the network"),
    "models/image_rows.py": ("models/qwen2_5_vl/test_packing.py", "the layout of the families' packs"),
    "models/layers.py": ("models/test_network.py", "part of the network"),
    "models/vision_layers.py": ("models/test_network.py", "part of the network"),
    "models/source.py": ("models/test_weights.py", "reads what weights.py loads"),
    "models/qwen2_5_vl/from_scratch.py": ("models/test_new_model.py", "which makes one of each family"),
    "models/qwen2_5_vl/text.py": ("models/qwen2_5_vl/test_model.py", "part of the network"),
    "models/qwen2_5_vl/vision.py": ("models/qwen2_5_vl/test_model.py", "part of the network"),
    "models/qwen3_vl/from_scratch.py": ("models/test_new_model.py", "which makes one of each family"),
    "models/qwen3_vl/text.py": ("models/qwen3_vl/test_model.py", "part of the network"),
    "models/qwen3_vl/vision.py": ("models/qwen3_vl/test_model.py", "part of the network"),
    "perl_jax/benchmarks/records.py": ("perl_jax/test_evaluate.py", "record sets, asked in whole evaluations"),
    "perl_jax/curation/build.py": ("perl_jax/test_prepare.py", "what prepare does"),
    "perl_jax/engine/pages.py": ("perl_jax/test_rollout.py", "KV caches of the sampler"),
    "perl_jax/engine/prefill.py": ("perl_jax/test_rollout.py", "what the sampler does first"),
    "perl_jax/engine/packed_groups.py": ("perl_jax/test_update.py", "the update's host side"),
    "perl_jax/evaluation/responses.py": ("perl_jax/test_evaluate.py", "tested in whole evaluations"),
    "perl_jax/filtering/difficulty.py": ("perl_jax/test_filter.py", "asks what the filter goes by"),
    "models/template_trial.py": ("models/test_chat_template.py", "the script that reading one runs"),
    "perl_jax/planning/programs.py": ("perl_jax/test_plan.py", "what plan compiles"),
    "perl_jax/records/record.py": ("perl_jax/records/test_storage.py", "what a set refuses"),
    "perl_jax/records/question.py": ("perl_jax/training/test_held_out.py", "asked in several orders there"),
    "perl_jax/records/rows.py": ("perl_jax/curation/test_curate.py", "plain tuples, made records there"),
    "perl_jax/rewards/boxed.py": ("perl_jax/rewards/test_rewards.py", "the reward"),
    "perl_jax/training/metrics.py": ("perl_jax/test_train.py", "what a step says"),
}


def test_perl_jax_knows_no_family_by_name():
    """What is one model family's comes through the door, `models`; what families share does not know them either."""
    rooms = {f"models.{name}" for name in models.FAMILIES}
    for module in NAMES:
        if not any(module.startswith(room) for room in rooms):
            known = {".".join(name.split(".")[:2]) for name in imported(NAMES[module])} & rooms
            assert not known, f"{module} imports {known}"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    for file in (REPOSITORY / room).rglob("*.py"):
        ours = {name.split(".")[0] for name in imported(file)} & set(ROOMS)
        assert ours <= MAY_IMPORT[room], f"{file.relative_to(REPOSITORY)} imports {ours - MAY_IMPORT[room]}"


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports anywhere: `a.b` for `from a import b` where b is a module, else `a`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            for alias in node.names:
                full_name = f"{node.module}.{alias.name}"
                yield full_name if full_name in NAMES else node.module


def dotted(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(file): REPOSITORY / file for file in FILES}


def layer(module: str) -> int:
    [number_of] = [number for number, rooms in enumerate(LAYERS) if module.split(".")[1] in rooms]
    return number_of


def test_a_room_knows_only_what_knows_less():
    rooms = {module.split(".")[1] for module in NAMES if module.startswith("perl_jax.")} - {"__main__"}
    assert rooms == {room for rooms in LAYERS for room in rooms}, "every room has its layer"
    for module in NAMES:
        if not module.startswith("perl_jax.") or module == "perl_jax.__main__":
            continue
        for other in imported(NAMES[module]):
            if other.startswith("perl_jax.") and other not in ANYWHERE:
                same = other.split(".")[1] == module.split(".")[1]
                assert same or layer(other) < layer(module), f"{module} imports {other}"
    for module in ANYWHERE:
        assert not [name for name in imported(NAMES[module]) if name.split(".")[0] in ROOMS], module


def test_no_import_goes_in_a_circle():
    graph = {module: set(imported(file)) & NAMES.keys() for module, file in NAMES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


def test_the_method_is_seen_at_a_glance():
    top = sorted(file.stem for file in (REPOSITORY / "perl_jax").glob("*.py"))
    assert set(READING_PATH) | set(COMMANDS) <= set(top) and len(top) <= 18


def test_literal_tables_alone_keep_a_form_of_their_own():
    """The machine formats everything else."""
    mark = "fmt: " + "skip"
    assert sum(file.read_text(encoding="utf-8").count(mark) for file in REPOSITORY.glob("[!.]*/**/*.py")) <= 30


def test_no_name_of_a_module_is_set_twice():
    """The second value would count everywhere, above it too."""
    for file in FILES:
        names = [
            target.id
            for node in ast.parse((REPOSITORY / file).read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        ]
        assert len(names) == len(set(names)), f"{file}: {sorted({name for name in names if names.count(name) > 1})}"


def test_every_module_has_a_test():
    for file in MODULES:
        mirrored = str(file.with_name(f"test_{file.name}"))
        test, why = TESTED_ELSEWHERE.get(str(file), (mirrored, "its own"))
        assert (REPOSITORY / "tests" / test).is_file(), f"{file}: no tests/{test} ({why})"
        assert test == mirrored or not (REPOSITORY / "tests" / mirrored).is_file(), f"{file} has a test: unlist it here"
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
