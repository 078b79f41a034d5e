#!/bin/sh
# Curves from a tiny model on a laptop CPU, and a law fitted to them: run.sh [FOLDER]
set -eu
here=$(dirname "$0")
out=${1:-$(mktemp -d)}
export OMP_NUM_THREADS=1

python "$here/base.py" "$out"
p2fit run post-train --model "$out/tiny-llama" --text corpus --method width \
  --rate 15% --rate 20% --rate 25% --rate 30% --rate 35% --tokens 60K --evals 6 \
  --eval-tokens 20K --seq-len 64 --batch-tokens 1K --batch-size 16 --lr 1e-3 \
  --calibration 32 --out "$out/curves"
# With one size of model, the part of the P² law that depends on the size is a constant.
p2fit fit "$out/curves/curves.csv" \
  --law "base_loss + pruning_rate^-gamma * (D_C/tokens^beta + E)"
