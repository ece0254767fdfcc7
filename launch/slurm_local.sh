#!/usr/bin/env bash
# launch/slurm.sh on a SLURM cluster that is only this machine and lasts as long as its job: two processes train
# together on the CPU. As root on Debian or Ubuntu; installs slurm-wlm and munge where they are missing.
#
#   bash launch/slurm_local.sh                               a few steps of the demo, in runs/slurm
#   bash launch/slurm_local.sh --config=... --workdir=...    with other flags of perl_jax.train
#
# The same command again goes on where the run ended. No systemd and no cgroups: the daemons are started by hand, keep
# all they write in a temporary directory, and end with the script.
set -euo pipefail
cd -- "$(dirname -- "$0")/.." >/dev/null
[ "$(id -u)" = 0 ] || { echo "error: SLURM's daemons need root here" >&2 && exit 1; }
[ $# -gt 0 ] || set -- --config=configs/demo.py --workdir=runs/slurm --config.data.options.train_size=400 \
    --config.data.options.eval_size=20 --config.eval.limit=20 --config.warmup.steps=10 --config.warmup.questions=16 \
    --config.total_steps=2 --config.questions=8
export PATH=$PATH:/usr/sbin
if ! type slurmctld slurmd munged &>/dev/null; then # `command -v` is content with one of them
    apt-get -qq update && apt-get -qq install --yes --no-install-recommends slurm-wlm munge
fi
[ -n "${VIRTUAL_ENV:-}" ] || source launch/venv.sh .venv-demo requirements.txt # an environment that is active serves

directory=$(mktemp -d) job="" daemons=()
ended() { # SECONDS at most, 0 for no limit
    timeout --foreground "$1" bash -c "while squeue -h -j $job | grep -q .; do sleep 1; done"
}
cleanup() {
    [ -z "$job" ] || { scancel --quiet "$job" && ended 60; } || true
    kill "${daemons[@]}" 2>/dev/null && wait "${daemons[@]}" || true
    rm -rf "$directory"
}
trap cleanup EXIT

read -r port other < <(python -c 'import socket
print(*(s.getsockname()[1] for s in [socket.create_server(("", 0)) for _ in range(2)]))')
export SLURM_CONF=$directory/slurm.conf
cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$other
SlurmUser=root
AuthInfo=socket=$directory/munge.socket
FirstJobId=$((RANDOM + 1)) # JAX makes its port from the job's number
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd.pid
KillWait=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides # two CPUs, whatever there is
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2
PartitionName=local Nodes=ALL Default=YES
CONF
mkdir "$directory/state" "$directory/spool" && chmod 755 "$directory"
(umask 077 && head -c 1024 /dev/urandom >"$directory/munge.key")
# setsid: Ctrl-C is for this script, which then cancels the job.
munge=("$directory"/munge.{key,socket,pid,seed})
setsid munged --foreground --key-file="${munge[0]}" --socket="${munge[1]}" --pid-file="${munge[2]}" \
    --seed-file="${munge[3]}" &>"$directory/munged.log" & daemons+=($!)
setsid slurmctld -D &>"$directory/slurmctld.log" & daemons+=($!)
setsid slurmd -D &>"$directory/slurmd.log" & daemons+=($!)
timeout 60 bash -c 'until sinfo -h -o %t 2>/dev/null | grep -qx idle; do sleep 1; done' ||
    { tail "$directory"/*.log >&2 && exit 1; }

touch "$directory/job.out"
tail -f "$directory/job.out" & daemons+=($!)
job=$(JAX_PLATFORMS=cpu sbatch --parsable --ntasks=2 --output="$directory/job.out" launch/slurm.sh "$@")
ended 0
scontrol show job "$job" | grep -o 'JobState=.*' | tee "$directory/state.txt"
grep -q =COMPLETED "$directory/state.txt"
