"""What the READMEs show is so: the snippet runs, its table has a place, its commands and folders exist."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny_run
from environment import REPOSITORY
from PIL import Image

import models.qwen2_5_vl as qwen
from benchmarks import readme, results

PAGE = (REPOSITORY / "README.md").read_text(encoding="utf-8")
LIBRARY = (REPOSITORY / "perl_jax" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_snippet_runs(tmp_path, monkeypatch):
    """On a small model with the published limits of pictures, which allow more than `models.pack` does by itself."""
    shutil.copytree(tiny_run.trained() / "init", tmp_path / "model")
    file = tmp_path / "model" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"min_pixels": 3136, "max_pixels": 12845056}))
    for name, size in (("a.png", (40, 60)), ("b.png", (1100, 1300))):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", LIBRARY, re.DOTALL)
    names = {}
    exec(compile(code, "perl_jax/README.md", "exec"), names)
    assert [sample["answer"] for sample in names["samples"]] == ["1", "2"]
    assert names["out"].tokens.shape[:2] == (2, 4) and np.isfinite(float(names["metrics"]["loss"]))
    assert qwen.load(tmp_path / "trained").config == names["model"].config


def test_what_it_names_is_there():
    """Scripts, configs, modules and folders; what is not built yet is not named as a command."""
    for path in set(re.findall(r"\b(?:launch|configs|perl_jax|models|tests|benchmarks)/[\w/.]*\w", PAGE)):
        assert (REPOSITORY / path).exists() or (REPOSITORY / f"{path}.py").exists(), path
    for module in set(re.findall(r"python -m (perl_jax\.\w+)", PAGE)):
        assert (REPOSITORY / (module.replace(".", "/") + ".py")).exists(), module


def test_it_is_read_in_a_few_minutes():
    """With its tables; more is in docs/."""
    assert len(PAGE.splitlines()) <= 150


def test_tables_have_a_place():
    for name in readme.TABLES:
        filled = readme.fill(PAGE, name, "| a |\n|---|\n| \\1 |")
        assert "| \\1 |" in filled
        assert readme.fill(filled, name, "| a |\n|---|\n| \\1 |") == filled
    with pytest.raises(ValueError, match="no place for the other table"):
        readme.fill(PAGE, "other", "")


def test_the_figures_of_speed_are_those_of_the_results():
    """One line a benchmark, as `python -m benchmarks.readme` writes it."""
    text = readme.speed(REPOSITORY / "benchmarks" / "RESULTS.md")
    names = re.findall(r"^- `benchmarks\.(\w+)`: \w", text, re.MULTILINE)
    assert names in (list(results.NAMES), [*results.NAMES, "accelerator"])  # that one where there is a GPU or TPU
    assert text in PAGE
