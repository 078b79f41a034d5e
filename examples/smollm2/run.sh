#!/bin/sh
# Make the runs of sweep.toml in FOLDER: run.sh FOLDER. Killed at any moment, the same command goes on.
# It needs p2fit with its adapters on PATH, and in their environment what convert.py names.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
[ -f model/config.json ] || python "$here/convert.py" model
[ -f sweep.toml ] || cp "$here/sweep.toml" .
exec p2fit run sweep sweep.toml --out runs
