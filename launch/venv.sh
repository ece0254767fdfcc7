# Sourced by the scripts beside it: enters a virtual environment in the repository that holds what requirements files
# list. Makes it where there is none, or where those files, the Python or the place changed; else takes it as it is.
#
#   source launch/venv.sh DIRECTORY REQUIREMENTS_FILE...
#
# PYTHON names the interpreter (3.11, 3.12 or 3.13); without it the first fitting one on the PATH is taken.

venv=$1
shift
python=
candidates=(python3 python3.13 python3.12 python3.11)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: perl_jax needs Python 3.11, 3.12 or 3.13; ${candidates[*]} is none. Set PYTHON to one." >&2
    exit 1
fi

stamp=$("$python" -c '
import hashlib, os, pathlib, sys
files = b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:])
print(" ".join([os.getcwd(), *sys.version.split(), hashlib.sha256(files).hexdigest()]))' "$@")
if [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing $* into $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${@/#/-r}"
    echo "$stamp" >"$venv/stamp"
fi
source "$venv/bin/activate"
