"""The records of a run are made once, or found where they are."""

import pytest
import tiny_run
from damage import damage

from models.errors import InputError
from perl_jax.training import run_data


def test_records_are_made_once_for_one_setting(tmp_path):
    config = tiny_run.config()
    made = run_data.data_sources(config, tmp_path)
    assert run_data.data_sources(config, tmp_path) == made == {str(tmp_path / "data"): 1.0}
    config.data.options.train_size = 25
    with pytest.raises(InputError, match=r"made with other settings .* new --workdir"):
        run_data.data_sources(config, tmp_path)


def test_records_that_do_not_say_what_they_were_made_from_are_not_taken(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"not .*data\.json.* move .*data away, or give a new --workdir") as error:
        run_data.data_sources(tiny_run.config(), tmp_path)
    assert "\n" not in str(error.value) and not list((tmp_path / "data").iterdir())
    (tmp_path / "new").mkdir()
    made = run_data.data_sources(tiny_run.config(), tmp_path / "new")
    (tmp_path / "new" / "data.json").unlink()
    with pytest.raises(InputError, match="exists, but not"):
        run_data.data_sources(tiny_run.config(), tmp_path / "new")
    (tmp_path / "new" / "data").rename(tmp_path / "old")
    assert run_data.data_sources(tiny_run.config(), tmp_path / "new") == made


@pytest.mark.parametrize("kind", ["empty", "cut", "zeros"])
def test_damaged_settings_are_one_line(tmp_path, kind):
    run_data.data_sources(tiny_run.config(), tmp_path)
    damage(tmp_path / "data.json", kind)
    with pytest.raises(InputError, match=r"data\.json is damaged \([^\n]*\): restore it, or move it "):
        run_data.data_sources(tiny_run.config(), tmp_path)
