#!/usr/bin/env bash
# N processes on this machine, as on N hosts: tries out what a pod will do.
# Usage: ./launch/local.sh N [arguments of jaxssl.main]
#   DEVICES=4        emulated CPU devices of each process
#   PORT=            coordinator's port (default: a free one)
#   PYTHON=          interpreter (default: .venv/bin/python of the repository)
#   MODULE=          what to run instead of jaxssl.main
# Output is prefixed with the process number. SIGTERM and SIGINT are passed on. The first failure ends the others and is the exit code; who lost a neighbour
# ends with 75 by itself, so that what the neighbour ended with counts more.
set -euo pipefail
if ! [[ "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 N [arguments of jaxssl.main], with N processes, at least 1; got '${1:-}'" >&2
  exit 2
fi
count=$1
shift
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
if ! "$python" -c '' 2>/dev/null; then
  echo "error: cannot run $python; ./launch/quickstart.sh installs it, or name an interpreter with PYTHON=" >&2
  exit 2
fi
port="${PORT:-$("$python" -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])')}"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES:-4}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# Huge pages for what malloc takes from the system: less processor time on a CPU (18 % in a prototype; benchmarks/huge_pages.py measures it). glibc reads
# it at a process's start; elsewhere it is an unknown name. What is set already stays.
export GLIBC_TUNABLES="glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}"

pipes="$(mktemp -d)"
pids=()
printers=()
kill_all() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill -"$1" -- "$2$pid" 2>/dev/null || true; done
}
trap 'kill_all KILL -; rm -rf "$pipes"' EXIT
trap 'kill_all TERM ""' TERM
trap 'kill_all INT ""' INT

prefix() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do printf '[%s] %s\n' "$1" "$line"; done
}

# Job control puts each process in a group of its own: Ctrl-C then reaches them once, through the trap, and a kill takes its workers too.
set -m
for ((i = 0; i < count; i++)); do
  mkfifo "$pipes/$i"
  prefix "$i" <"$pipes/$i" &
  printers+=($!)
  "$python" -u -m "${MODULE:-jaxssl.main}" "$@" --coordinator "127.0.0.1:$port" --processes "$count" --process_id "$i" >"$pipes/$i" 2>&1 </dev/null &
  pids+=($!)
done

code=0
ended=" "
left=$count
deadline=0
while ((left > 0)); do
  for ((i = 0; i < count; i++)); do
    if [[ "$ended" == *" $i "* ]] || kill -0 "${pids[$i]}" 2>/dev/null; then continue; fi
    status=0
    wait "${pids[$i]}" || status=$?
    ended+="$i "
    left=$((left - 1))
    if ((status != 0 && code == 0)); then
      code=$status
      deadline=$((SECONDS + 15)) # the others may hang in a collective with the lost one: a little grace, then the end
      if ((left > 0)); then
        echo "process $i ended with $status; ending the others" >&2
        kill_all TERM ""
      fi
    elif ((code == 75 && SECONDS <= deadline && status != 0 && status != 143)); then
      code=$status
      echo "process $i ended with $status" >&2
    fi
  done
  if ((deadline > 0 && SECONDS > deadline)); then kill_all KILL -; fi
  if ((left > 0)); then sleep 0.2 || true; fi
done
kill_all KILL - # workers that a process left behind would keep the pipe open
wait ${printers[@]+"${printers[@]}"} || true
exit "$code"
