#!/usr/bin/env bash
# A real Slurm on this machine, for the time of one command: munged, slurmctld and slurmd of one node, all of it in a temporary folder.
# Usage: tests/slurm.sh COMMAND [ARGUMENT…], as root, where slurm-wlm and munge are installed; sbatch, squeue, scontrol and scancel work in COMMAND.
#   KILL_WAIT=120    seconds from SIGTERM to SIGKILL (KillWait of slurm.conf)
# Ends with the code of COMMAND, or 77 where there is no Slurm.
# shellcheck disable=SC2329  # functions that a trap or another function calls by name
set -euo pipefail
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || { echo "skipped: no $program here; Debian and Ubuntu have it in slurm-wlm and munge" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: slurmd runs as root" >&2; exit 77; }
(($#)) || { echo "usage: $0 COMMAND [ARGUMENT…]" >&2; exit 2; }

place="$(mktemp -d)"
chmod 755 "$place"
pids=()
wait_for() { # a command, up to half a minute
  for _ in $(seq 150); do
    if "$@" 2>/dev/null; then return; fi
    sleep 0.2
  done
  return 1
}
no_jobs() { [ -z "$(squeue --noheader)" ]; }
idle() { sinfo --noheader --format %T | grep -q idle; }
finish() {
  scancel --quiet --user root 2>/dev/null || true
  wait_for no_jobs || true
  for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null || true; done
  sleep 3 # the steps report their ends
  for pid in ${pids[@]+"${pids[@]}"}; do kill -KILL "$pid" 2>/dev/null || true; done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$place"
}
trap finish EXIT
free_port() { python3 -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])'; }

node="$(hostname -s)"
mkdir "$place/munge" "$place/state" "$place/spool"
chmod 755 "$place/munge"
dd if=/dev/urandom of="$place/key" bs=128 count=1 status=none
chmod 400 "$place/key"
cat >"$place/slurm.conf" <<TEXT
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$place/munge/socket,cred_expire=10
CryptoType=crypto/munge
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2,requeue_delay=1

MpiDefault=none
ReturnToService=2
KillWait=${KILL_WAIT:-120}
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
TEXT

export SLURM_CONF="$place/slurm.conf"

munged --foreground --force --key-file="$place/key" --socket="$place/munge/socket" --pid-file="$place/munge/pid" --log-file="$place/munge/log" --seed-file="$place/munge/seed" 2>"$place/munged.log" &
pids+=($!)
wait_for test -S "$place/munge/socket" || true
slurmctld -D -f "$SLURM_CONF" >"$place/slurmctld.log" 2>&1 &
pids+=($!)
slurmd -D -f "$SLURM_CONF" -N "$node" >"$place/slurmd.log" 2>&1 &
pids+=($!)
wait_for idle || { tail -n 20 "$place"/*.log >&2; echo "error: Slurm did not come up" >&2; exit 1; }
code=0
"$@" || code=$?
exit "$code"
