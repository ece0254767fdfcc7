#!/usr/bin/env bash
# Trains on this host until the run is finished, whoever is connected. Of several hosts, each does the same.
#
#   bash launch/worker.sh start --config=... --workdir=WORKDIR [more flags of perl_jax.train]     in the background
#   bash launch/worker.sh status       running, finished or neither, and the last lines of the log
#   bash launch/worker.sh logs         follows the log, logs/train.log
#   bash launch/worker.sh stop         the run saves its step and ends
#   bash launch/worker.sh run ...      as start, in the foreground: what a container does
#
# A training that ends before it has written WORKDIR/finished, whatever its exit code, is started again 30 s later.
# After five in a row that lasted less than ten minutes `run` gives up, with exit code 1. SIGTERM, SIGHUP or Ctrl-C are
# passed on; it then exits with 143, or with 0 if the run is finished.
set -euo pipefail
cd -- "$(dirname -- "$0")/.." >/dev/null
log=logs/train.log

say() { echo "$HOSTNAME: $*"; }
refuse() { echo "error: $HOSTNAME: $*" >&2 && exit 1; }

find_workdir() { # FLAGS: sets workdir
    local before=
    workdir=
    for flag in "$@"; do
        case $flag in
        --workdir=* | -workdir=*) workdir=${flag#*=} ;;
        *) [[ $before != --workdir && $before != -workdir ]] || workdir=$flag ;;
        esac
        before=$flag
    done
    [ -n "$workdir" ] || refuse "give --workdir=WORKDIR: its file finished says when to end"
}

finished() { # another one each time that a run ends
    local files=("$workdir/finished") name=${workdir%/}
    # of a run in a bucket: what its process on this host has (perl_jax/runtime/bucket.py)
    [[ $workdir != gs://* ]] || files=(~/.cache/perl_jax/buckets/process-*/"${name//\//%2F}/finished")
    stat -c '%i %y' -- "${files[@]}" 2>/dev/null || true
}

end_if_done() { # of a run: uses its variables
    local now
    now=$(finished)
    [[ -z $now || $now = "$before" ]] || { say finished && exit 0; }
    [ -z "$stopped" ] || { say "stopped before its end; the same command goes on" && exit 143; }
}

run() {
    local before child='' stopped='' started code short=0
    find_workdir "$@"
    before=$(finished)
    trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM HUP INT
    while true; do
        started=$SECONDS
        say "training, $(date -u +%FT%TZ)"
        python -m perl_jax.train "$@" &
        child=$!
        [ -z "$stopped" ] || kill -TERM "$child" 2>/dev/null || true
        code=0
        until wait "$child" && code=0 || code=$?; ! kill -0 "$child" 2>/dev/null; do :; done # a signal ends wait
        child=
        end_if_done
        ((SECONDS - started < 600)) || short=0
        ((++short < 5)) || { say "gave up: five trainings in a row lasted less than ten minutes" && exit 1; }
        say "the training ended with exit code $code; again in 30 s"
        sleep 30 9>&- & # without the lock of `start`
        wait $! || true
        end_if_done # what another host wrote may be seen late
    done
}

running() { [ -e logs/lock ] && ! flock --nonblock logs/lock true; }

start() {
    find_workdir "$@"
    mkdir -p logs
    exec 9>>logs/lock # held by the run and its training while one of them lives
    flock --nonblock 9 || refuse "a training is running here (process $(cat logs/pid)): stop it first"
    printf %s "$workdir" >logs/workdir
    rm -f logs/pid
    # shellcheck disable=SC2016
    setsid bash -c 'echo $$ >logs/pid; exec bash launch/worker.sh run "$@"' worker "$@" </dev/null >>"$log" 2>&1 &
    until [ -s logs/pid ]; do sleep 0.1; done # it has a session of its own now: no closed connection ends it
    say "training in the background, process $(cat logs/pid); log: $PWD/$log"
}

status() {
    if running; then
        say "running, process $(cat logs/pid)"
    elif [ ! -e logs/workdir ]; then
        say "nothing was started here"
    elif workdir=$(cat logs/workdir) && [ -n "$(finished)" ]; then
        say finished
    else
        say "not running, not finished"
    fi
    [ ! -e "$log" ] || tail -n 5 "$log" | sed "s/^/$HOSTNAME|  /"
}

stop() {
    if running; then
        kill -TERM -- "-$(cat logs/pid)" || true # its group: the training, too, were it left alone
        flock --wait 150 logs/lock true || say "still saving after 150 s; stop waits once more"
    fi
    status
}

stage=${1:-}
shift || true
case $stage in
run | start) "$stage" "$@" ;;
status | stop) "$stage" ;;
logs) exec tail -n 100 -F "$log" ;;
*) sed -n '4,8s/^# *//p' "$0" >&2 && exit 1 ;;
esac
