#!/usr/bin/env bash
# Runs the tests, in the same .venv as the quick start. Usage: ./launch/test.sh [arguments of pytest]
set -euo pipefail
# shellcheck source=launch/_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

setup_venv test
cd "$root"
echo "== running the tests"
# Two workers, each with whole files: fixtures of a module are made once.
exec "$python" -m pytest -n 2 --dist loadfile "$@"
