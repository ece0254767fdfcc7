"""The records of a run are made once, or found where they are."""

import pytest
import tiny_run

from models.errors import InputError
from perl_jax.training import run_data


def test_records_are_made_once_for_one_setting(tmp_path):
    config = tiny_run.config()
    made = run_data.data_sources(config, tmp_path)
    assert run_data.data_sources(config, tmp_path) == made == {str(tmp_path / "data"): 1.0}
    config.data.options.train_size = 25
    with pytest.raises(InputError, match=r"made with other settings .* new --workdir"):
        run_data.data_sources(config, tmp_path)
