#!/usr/bin/env bash
# Trains on all workers of a TPU VM slice, from a machine with gcloud; WORKDIR is a directory that all workers see.
#
#   bash launch/tpu_vm.sh install NAME ZONE      what is committed here, with requirements-tpu.txt, to ~/perl_jax
#   bash launch/tpu_vm.sh run NAME ZONE --config=configs/perl_3b.py --workdir=WORKDIR [more flags of perl_jax.train]
#
# `install` again brings what is new; it cannot start from a shallow clone. A run that loses its connection ends; the
# same command goes on. Several slices, created as one queued resource: PERL_JAX_TPU=queued-resources before either
# command, NAME is the queued resource's, and --config.mesh.slice=(how many).
set -euo pipefail
cd -- "$(dirname -- "$0")/.." >/dev/null
[ $# -ge 3 ] || { sed -n '4,5s/^# *//p' "$0" >&2 && exit 1; }
stage=$1 name=$2 kind=${PERL_JAX_TPU:-tpu-vm}
all=(--zone="$3" --worker=all)
[ "$kind" = tpu-vm ] || all+=(--node=all)

on_all() { gcloud compute tpus "$kind" ssh "$name" "${all[@]}" --command="$1"; }

case $stage in
install)
    git diff --quiet HEAD || echo "note: what is not committed stays here" >&2
    directory=$(mktemp -d)
    trap 'rm -rf "$directory"' EXIT
    git bundle create --quiet "$directory/perl_jax.bundle" HEAD
    gcloud compute tpus "$kind" scp "$directory/perl_jax.bundle" "$name:" "${all[@]}"
    # uv brings a Python of its own: that of a VM image may be older than 3.11.
    on_all 'set -e; git init --quiet perl_jax; cd perl_jax
        git fetch --quiet ../perl_jax.bundle HEAD; git checkout --quiet --force FETCH_HEAD
        PATH=$HOME/.local/bin:$PATH
        command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
        [ -d .venv-tpu ] || uv venv --quiet --python 3.12 .venv-tpu
        uv pip install --quiet --python .venv-tpu --requirements requirements-tpu.txt'
    ;;
run) on_all "cd perl_jax && exec .venv-tpu/bin/python -m perl_jax.train$(printf ' %q' "${@:4}")" ;;
*) echo "error: install or run, not $stage" >&2 && exit 1 ;;
esac
