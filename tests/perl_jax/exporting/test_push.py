"""The hub stands in: which calls it gets, and what becomes of its refusals."""

from types import SimpleNamespace

import huggingface_hub
import pytest

from models.errors import InputError
from perl_jax.exporting import push


class Hub:
    """What `push` uses of `HfApi`."""

    def __init__(self, error=None):
        self.calls, self._error = [], error

    def create_repo(self, name, **options):
        self.calls.append((name, options))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self._error:
            raise self._error
        self.calls.append((repo_id, sorted(file.name for file in folder_path.iterdir()), commit_message))
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")


def test_all_files_go_up_in_one_commit(tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    for name in ("README.md", "model.safetensors"):
        (tmp_path / name).write_text("x")
    assert push.push(tmp_path, "me/perl", "step 3") == "https://huggingface.co/me/perl/commit/1"
    made, uploaded = hub.calls
    assert made == ("me/perl", {"private": True, "exist_ok": True})
    assert uploaded == ("me/perl", ["README.md", "model.safetensors"], "step 3")


@pytest.mark.parametrize("error", [OSError("no route\nto host"), ValueError("bad name")])
def test_a_refusal_is_one_line_that_says_where_the_export_is(tmp_path, monkeypatch, error):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(error))
    with pytest.raises(InputError, match=f"hf upload me/perl {tmp_path}") as told:
        push.push(tmp_path, "me/perl", "step 3")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["perl", "a/b/c", "", "me/pe rl", "https://huggingface.co/me/perl"])
def test_another_name(name):
    with pytest.raises(InputError, match="give it as OWNER/NAME"):
        push.check(name)


def test_a_token_is_needed_before_the_export(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match="run `hf auth login`, or set HF_TOKEN"):
        push.check("me/perl")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    push.check("me/perl")
