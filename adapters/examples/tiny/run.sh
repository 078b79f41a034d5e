#!/bin/sh
# Curves from a tiny model on a laptop CPU, and a law fitted to them: run.sh [FOLDER]
set -eu
out=${1:-$(mktemp -d)}

p2fit run sweep "$(dirname "$0")/sweep.toml" --out "$out"
# With one size of model, the part of the P² law that depends on the size is a constant.
p2fit fit "$out/post-train/curves.csv" \
  --law "base_loss + pruning_rate^-gamma * (D_C/tokens^beta + E)"
