#!/usr/bin/env bash
# Trains on all workers of a TPU VM slice, from a machine with gcloud; WORKDIR is a directory that all workers see.
#
#   bash launch/tpu_vm.sh install NAME ZONE      what is committed here, with requirements-tpu.txt, to ~/perl_jax
#   bash launch/tpu_vm.sh run NAME ZONE --config=configs/perl_3b.py --workdir=WORKDIR [more flags of perl_jax.train]
#   bash launch/tpu_vm.sh status NAME ZONE       of each worker: running, finished or neither, and its last lines
#   bash launch/tpu_vm.sh logs NAME ZONE         follows the log of worker 0, ~/perl_jax/logs/train.log
#   bash launch/tpu_vm.sh stop NAME ZONE         the run saves its step and ends; the same command goes on
#
# `run` returns at once: the workers train on without this machine, and again where a training ends before the run is
# finished (launch/worker.sh). `install` again brings what is new; it cannot start from a shallow clone. Several slices,
# created as one queued resource: PERL_JAX_TPU=queued-resources before each command, NAME is the queued resource's, and
# --config.mesh.slice=(how many).
set -euo pipefail
cd -- "$(dirname -- "$0")/.." >/dev/null
[ $# -ge 3 ] || { sed -n '4,8s/^# *//p' "$0" >&2 && exit 1; }
stage=$1 name=$2 zone=$3 kind=${PERL_JAX_TPU:-tpu-vm}

on() { # WORKERS COMMAND
    local nodes=()
    [ "$kind" = tpu-vm ] || nodes=(--node="$1")
    gcloud compute tpus "$kind" ssh "$name" --zone="$zone" --worker="$1" ${nodes[@]+"${nodes[@]}"} --command="$2"
}
# shellcheck disable=SC2016
worker='cd perl_jax && PATH=$PWD/.venv-tpu/bin:$PATH exec bash launch/worker.sh'

case $stage in
install)
    git diff --quiet HEAD || echo "note: what is not committed stays here" >&2
    directory=$(mktemp -d)
    trap 'rm -rf "$directory"' EXIT
    git bundle create --quiet "$directory/perl_jax.bundle" HEAD
    all=(--zone="$zone" --worker=all)
    [ "$kind" = tpu-vm ] || all+=(--node=all)
    gcloud compute tpus "$kind" scp "$directory/perl_jax.bundle" "$name:" "${all[@]}"
    # uv brings a Python of its own: that of a VM image may be older than 3.11.
    on all 'set -e; git init --quiet perl_jax; cd perl_jax
        [ ! -e logs/lock ] || flock --nonblock logs/lock true ||
            { echo "error: a training is running: stop it first" >&2; exit 1; }
        git fetch --quiet ../perl_jax.bundle HEAD; git checkout --quiet --force FETCH_HEAD
        PATH=$HOME/.local/bin:$PATH
        command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
        [ -d .venv-tpu ] || uv venv --quiet --python 3.12 .venv-tpu
        uv pip install --quiet --python .venv-tpu --requirements requirements-tpu.txt'
    ;;
run) on all "$worker start$(printf ' %q' "${@:4}")" ;;
status | stop) on all "$worker $stage" ;;
logs) on 0 "$worker logs" ;;
*) echo "error: install, run, status, logs or stop, not $stage" >&2 && exit 1 ;;
esac
