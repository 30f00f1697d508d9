#!/usr/bin/env bash
# A TPU pod slice of Google Cloud, from creation to deletion. Needs the gcloud command line, logged in.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: ./launch/tpu_vm.sh COMMAND --name NAME --zone ZONE [options] [-- arguments]

  create  --type TYPE [--version IMAGE] [--spot]   make the slice, for example --type v5litepod-16
  copy                                             copy this checkout to every worker and install it there
  run     -- ARGUMENTS                             start jaxssl.main with ARGUMENTS on every worker, in the background
  tail    [--worker N]                             follow a worker's output (default 0); Ctrl-C ends the following only
  stop                                             SIGTERM on every worker: the run saves and ends; `run` goes on with it
  delete                                           delete the slice and everything on it

options: --project PROJECT (default: gcloud's own)
example:
  ./launch/tpu_vm.sh create --name pod --zone europe-west4-b --type v5litepod-16 --spot
  ./launch/tpu_vm.sh copy --name pod --zone europe-west4-b
  ./launch/tpu_vm.sh run --name pod --zone europe-west4-b -- --config configs/imagenet/simclr.py --workdir gs://bucket/run
TEXT
}

fail() {
  echo "error: $1" >&2
  exit 2
}

# The image that belongs to a type of TPU; its Python may be too old, which `copy` mends.
image_for() {
  case "$1" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "no image is known for --type $1; name one with --version" ;;
  esac
}

case "${1:-}" in
  "" | -h | --help | help)
    usage
    exit 0
    ;;
  create | copy | run | tail | stop | delete) command=$1 ;;
  *) fail "unknown command '$1'; the commands are create, copy, run, tail, stop, delete (--help explains them)" ;;
esac
shift

name="" zone="" type="" version="" worker=0 spot=() project=()
while (($#)); do
  case "$1" in
    --spot) spot=(--spot) ;;
    --)
      shift
      break
      ;;
    --name | --zone | --type | --version | --worker | --project)
      (($# > 1)) || fail "$1 needs a value"
      case "$1" in
        --name) name=$2 ;;
        --zone) zone=$2 ;;
        --type) type=$2 ;;
        --version) version=$2 ;;
        --worker) worker=$2 ;;
        --project) project=(--project "$2") ;;
      esac
      shift
      ;;
    *) fail "unknown option '$1' (arguments of jaxssl.main follow --; --help lists the options)" ;;
  esac
  shift
done
[ -n "$name" ] || fail "--name is missing"
[ -n "$zone" ] || fail "--zone is missing"
command -v gcloud >/dev/null || fail "gcloud was not found; install the Google Cloud command line and run: gcloud auth login"

tpu=(gcloud alpha compute tpus tpu-vm)
where=(--zone "$zone" ${project[@]+"${project[@]}"})
on_all() { "${tpu[@]}" ssh "$name" "${where[@]}" --worker all --command "$1"; }

case "$command" in
  create)
    [ -n "$type" ] || fail "create needs --type, for example v5litepod-16"
    [ -n "$version" ] || version="$(image_for "$type")"
    "${tpu[@]}" create "$name" "${where[@]}" --accelerator-type "$type" --version "$version" ${spot[@]+"${spot[@]}"}
    ;;
  copy)
    archive="$(mktemp -d)"
    trap 'rm -rf "$archive"' EXIT
    tar -czf "$archive/jaxssl.tgz" -C "$(dirname "${BASH_SOURCE[0]}")/.." --exclude ./.git --exclude ./.venv --exclude ./runs --exclude __pycache__ .
    "${tpu[@]}" scp "$archive/jaxssl.tgz" "$name:" "${where[@]}" --worker all
    # shellcheck disable=SC2016  # expanded on the worker
    on_all 'set -e
      mkdir -p jaxssl && tar -xzf jaxssl.tgz -C jaxssl
      cd jaxssl
      source launch/_venv.sh
      find_python >/dev/null 2>&1 || { sudo apt-get -qq update && sudo apt-get -qq install -y python3.11 python3.11-venv; }
      setup_venv tpu'
    ;;
  run)
    (($#)) || fail "run needs the arguments of jaxssl.main after --"
    # One run a host: a second one would wait for TPU chips that the first holds.
    on_all "cd jaxssl
      if [ -f ../jaxssl.pid ] && kill -0 \"\$(cat ../jaxssl.pid)\" 2>/dev/null; then echo 'error: a run is active on this worker; tail or stop it' >&2; exit 2; fi
      nohup .venv/bin/python -u -m jaxssl.main $(printf '%q ' "$@")>../jaxssl.log 2>&1 </dev/null &
      echo \$! >../jaxssl.pid"
    echo "started; ./launch/tpu_vm.sh tail --name $name --zone $zone follows it"
    ;;
  tail)
    "${tpu[@]}" ssh "$name" "${where[@]}" --worker "$worker" --command 'tail -n 100 -F jaxssl.log'
    ;;
  stop)
    # shellcheck disable=SC2016  # expanded on the worker
    on_all 'kill -TERM "$(cat jaxssl.pid)"'
    ;;
  delete)
    "${tpu[@]}" delete "$name" "${where[@]}" --quiet
    ;;
esac
