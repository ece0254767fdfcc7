"""Where a model comes from: told as it is found, and left out where it is not."""

import json

import pytest

from models.errors import InputError
from perl_jax import records
from perl_jax.curation.build import build
from perl_jax.evaluation import training_runs
from perl_jax.exporting import provenance

HUB = {"base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "revision": "main"}


def card(path, front):
    (path / "README.md").write_text(f"---\n{front}\n---\n# A model\n")


@pytest.mark.parametrize(
    ("front", "fields"),
    [
        ("license: apache-2.0", {"license": "apache-2.0"}),
        (
            "license: other\nlicense_name: own\nlicense_link: LICENSE",
            {"license": "other", "license_name": "own", "license_link": "LICENSE"},
        ),
        (
            "license_name: own\nlicense_link: https://x.org/l",
            {"license_name": "own", "license_link": "https://x.org/l"},
        ),
        ("license: mit\nlicense_link: GONE", {"license": "mit"}),
        ("license_link: LICENSE", {}),
        ("license: 7", {}),
        ("tags: [a]", {}),
        ("license: [", {}),
    ],
)
def test_the_licence_is_what_the_base_card_says(tmp_path, front, fields):
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    card(tmp_path, front)
    assert provenance.license_metadata(tmp_path) == fields


def test_a_licence_is_never_guessed(tmp_path):
    assert provenance.license_metadata(tmp_path) == {}
    (tmp_path / "LICENSE").write_text("Apache License, Version 2.0")
    base = provenance.base(tmp_path, HUB, "f", new=False)
    assert base.license == {} and base.license_file == "LICENSE"


def test_a_base_has_its_hub_id_or_the_last_part_of_its_path(tmp_path):
    base = provenance.base(tmp_path, HUB, "f", new=False)
    assert (base.name, base.hub, base.revision) == ("Qwen/Qwen2.5-VL-3B-Instruct", True, "main")
    assert not base.from_nothing
    base = provenance.base(tmp_path, {"base_model_name_or_path": str(tmp_path / "mine")}, "f", new=False)
    assert (base.name, base.hub, base.revision) == ("mine", False, None)


def test_a_model_from_nothing_stays_one_when_trained_on(tmp_path):
    name = {"base_model_name_or_path": str(tmp_path)}
    assert provenance.base(tmp_path, name, "f", new=True).from_nothing
    assert provenance.base(tmp_path, name, "f", new=True).name is None
    for model, toy in (("", True), ("Qwen/X", False)):
        (tmp_path / "perl_jax.json").write_text(json.dumps({"run": {"config": {"model": model}}}))
        assert provenance.base(tmp_path, name, "f", new=False).from_nothing == toy


def test_records_are_counted_where_they_are_as_they_were(tmp_path):
    directory = str(tmp_path / "set")
    build("digits", directory, seed=0, train_size=4, eval_size=2, questions=("which",))
    known = records.fingerprint(directory)
    [data] = provenance.data({directory: known})
    assert data == provenance.Data("set", known, {"eval": 2, "train": 4}, ["digits_which"])
    for place, fingerprint in ((directory, "another"), (str(tmp_path / "set.gone"), known)):
        [data] = provenance.data({place: fingerprint})
        assert (data.fingerprint, data.counts, data.sources) == (fingerprint, {}, [])


def test_evaluations_are_the_last_ones_of_the_step_or_before(tmp_path):
    for name in ("eval-00000000", "eval-00000003", "eval-00000009", "my-set-00000003", "late-00000004", "odd"):
        (tmp_path / "evaluations").mkdir(exist_ok=True)
        row = dict.fromkeys(training_runs.ROW_KEYS, "") | {"id": name}
        (tmp_path / "evaluations" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "evaluations" / "empty-00000001.jsonl").write_text("")
    evaluations = provenance.evaluations(tmp_path, 3)
    assert [(each.name, each.step, each.rows[0]["id"]) for each in evaluations] == [
        ("eval", 3, "eval-00000003"),
        ("my-set", 3, "my-set-00000003"),
    ]
    assert provenance.evaluations(tmp_path / "none", 3) == []


def share(mean):
    return {"mean": mean, "low": 0.1, "high": 0.9, "questions": 4}


RESULT = {
    "benchmark": "blink",
    "protocol": "boxed",
    "judge": None,
    "model": {"name": "m", "fingerprint": "abc"},
    "data": "d",
    "settings": {"samples": 1, "temperature": 0.0},
    "rows": 4,
    "rejected": {},
    "partial": True,
    "figures": {"questions": 4, "headline": "macro", "micro": share(0.25), "macro": share(0.5)},
    "consistency": {
        "questions": 2,
        "permuted": share(0.3),
        "consistent": share(0.2),
        "flip": share(0.4),
        "control": {"drawn": False, "flip": share(0.0)},
    },
    "against": None,
    "time": "t",
}


def written(out, **changes):
    file = out / "some-boxed" / "results.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**RESULT, **changes}))
    return out


def test_results_are_read_with_the_accuracy_of_the_benchmark(tmp_path):
    [first, second] = provenance.results(
        [
            written(tmp_path / "a"),
            written(
                tmp_path / "b",
                consistency=None,
                judge={"model": "gpt", "url": "http://x"},
                benchmark="records",
                data="/home/me/photos:eval",
            ),
        ]
    )
    assert (first.accuracy.mean, first.macro, first.partial, first.judge) == (0.5, True, True, None)
    assert first.consistency.flip.mean == 0.4 and first.consistency.control.mean == 0.0
    assert second.consistency is None and second.judge == "gpt" and second.benchmark == "records photos:eval"


@pytest.mark.parametrize(
    "changes",
    [
        {"figures": {}},
        {"figures": None},
        {"model": {"name": "m"}},
        {"consistency": {"questions": 2}},
        {"judge": {"url": ""}},
        {"figures": {**RESULT["figures"], "macro": 0.5}},
    ],
)
def test_what_are_no_results_is_refused(tmp_path, changes):
    with pytest.raises(InputError, match="evaluate again"):
        provenance.results([written(tmp_path / "a", **changes)])


def test_a_directory_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} holds no results"):
        provenance.results([tmp_path])


def test_results_of_other_weights_are_refused(tmp_path):
    results = provenance.results([written(tmp_path)])
    provenance.check(results, "abc")
    with pytest.raises(InputError, match="blink-boxed is of the weights abc, this step has xyz"):
        provenance.check(results, "xyz")
