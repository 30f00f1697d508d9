#!/usr/bin/env bash
# The first run: installs into .venv, trains SimCLR on images that come with the program, prints what was learned. Needs bash and python3 >= 3.11.
# Usage: ./launch/quickstart.sh [arguments of jaxssl.main]; WORKDIR=DIR puts the run elsewhere than runs/quickstart. The same command resumes.
set -euo pipefail
# shellcheck source=launch/_venv.sh
source "$(dirname "${BASH_SOURCE[0]}")/_venv.sh"

start=$SECONDS
setup_venv
cd "$root"
workdir="${WORKDIR:-runs/quickstart}"
trained=$SECONDS
echo "== training SimCLR on cluttered digits in $workdir"
"$python" -m jaxssl.main --config configs/digits/simclr.py --workdir "$workdir" "$@"
echo "== trained and evaluated in $((SECONDS - trained)) s; $((SECONDS - start)) s in all"
"$python" -m jaxssl.table --workdir "$workdir"
