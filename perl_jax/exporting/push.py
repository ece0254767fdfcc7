"""Uploads an exported directory to the Hugging Face hub."""

import re
from pathlib import Path

from models.errors import InputError, one_line

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def check(repository: str) -> None:
    """Raises InputError, before any work is done, for another name than OWNER/NAME, and without a token."""
    from huggingface_hub import get_token

    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"--push={repository}: give it as OWNER/NAME")
    if not get_token():
        raise InputError(f"--push={repository}: no token of the hub here; run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, repository: str, message: str) -> str:
    """Uploads all files of a folder in one commit, and returns its URL; a new repository is private.

    Raises InputError where the hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message).commit_url)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"--push={repository}: {one_line(error)}; the export is whole in {folder}: "
            f"`hf upload {repository} {folder}` tries again"
        ) from error
