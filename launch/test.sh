#!/usr/bin/env bash
# The tests, in an environment of their own: bash launch/test.sh [pytest's arguments]
set -euo pipefail
cd -- "$(dirname -- "$0")/.." >/dev/null
source launch/venv.sh .venv-test requirements.txt requirements-dev.txt

# With torch the network is also compared live with transformers. On Linux only the CPU build: the other is gigabytes.
if ! python -c 'import torch' 2>/dev/null; then
    case $(uname -s) in
    Linux) torch=(torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu) ;;
    *) torch=(torch==2.13.0) ;;
    esac
    python -m pip install --quiet --disable-pip-version-check --retries 1 "${torch[@]}" ||
        echo "No CPU build of torch here: the tests compare with stored values of transformers only."
fi

# PEFT, which loads exported adapters, asks for torch too: a build that is here is enough for it.
if python -c 'import torch' 2>/dev/null && ! python -c 'import peft' 2>/dev/null; then
    python -m pip install --quiet --disable-pip-version-check --retries 1 'peft>=0.21,<0.22' ||
        echo "No PEFT here: exported adapters are compared with stored names and shapes only."
fi

ruff check .
ruff format --check --quiet .
mypy
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
