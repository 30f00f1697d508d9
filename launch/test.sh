#!/usr/bin/env bash
# Runs the tests, in the same .venv as the quick start. Usage: ./launch/test.sh [arguments of pytest]
set -euo pipefail
# shellcheck source=launch/_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

setup_venv test
cd "$root"
echo "== running the tests"
# Two workers, each with whole files: fixtures of a module are made once. A test that stands still is ended by its own limit (pyproject.toml); the limit
# here is the last net, for the whole run: SIGINT first, so that pytest still says what it knows. LIMIT=SECONDS changes it.
net=()
if command -v timeout >/dev/null; then net=(timeout --foreground --signal=INT --kill-after=60 "${LIMIT:-7200}"); fi
exec ${net[@]+"${net[@]}"} "$python" -m pytest -n 2 --dist loadfile "$@"
