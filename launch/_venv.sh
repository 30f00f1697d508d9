# shellcheck shell=bash
# Sourced by the scripts beside it. `setup_venv [extra]` makes .venv in the repository, or re-uses it, and installs the tested versions.
# PYTHON=/path/to/python chooses another interpreter than the first good one.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python"
# Huge pages for what malloc takes from the system: less processor time on a CPU (18 % in a prototype; benchmarks/huge_pages.py measures it). glibc reads
# it at a process's start; elsewhere it is an unknown name. What is set already stays.
export GLIBC_TUNABLES="glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}"

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local name
  for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if is_new_enough "$name"; then
      echo "$name"
      return
    fi
  done
  echo "error: Python 3.11 or newer is needed and $(python3 -V 2>/dev/null || echo 'no python3') was found; install one, or point to it with PYTHON=/path/to/python" >&2
  return 2
}

setup_venv() {
  local extra="${1:-}" stamp="$root/.venv/.jaxssl-installed" wanted start=$SECONDS found
  if [ ! -x "$python" ]; then
    found="$(find_python)" || return
    echo "== making .venv with $("$found" -V)"
    "$found" -m venv "$root/.venv" || {
      echo "error: $found cannot make a virtual environment; on Debian and Ubuntu run: sudo apt-get install python3-venv" >&2
      return 2
    }
  elif ! is_new_enough "$python"; then
    echo "error: $root/.venv has $("$python" -V 2>&1), and Python 3.11 or newer is needed; delete that folder and start again" >&2
    return 2
  fi
  # One line for each installed set; it holds what the set depends on, the place included, since an editable install knows its path.
  wanted="$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum | cut -d' ' -f1) $root"
  if [ -f "$stamp" ] && grep -qxF "$wanted [$extra]" "$stamp"; then
    echo "== .venv is up to date"
    return
  fi
  # --no-compile: Python compiles what it imports when it does; compiling all of it here cost a fifth of the installation.
  echo "== installing jaxssl${extra:+ with the extra \"$extra\"} and its tested versions (constraints.txt)"
  (cd "$root" && "$python" -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ".${extra:+[$extra]}") || {
    echo "error: the installation failed; the reason stands above, and the same command tries again" >&2
    return 1
  }
  # What an extra installs holds the core too; a stamp of other versions is void.
  { grep -F "$wanted [" "$stamp" 2>/dev/null || true; printf '%s []\n%s [%s]\n' "$wanted" "$wanted" "$extra"; } | sort -u >"$stamp.new"
  mv "$stamp.new" "$stamp"
  echo "== installed in $((SECONDS - start)) s"
}
