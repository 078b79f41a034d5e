#!/bin/sh
# Curves from a tiny model on a laptop CPU, and the P² law fitted to them.
set -eu
here=$(dirname "$0")
out=${1:-$(mktemp -d)}
export OMP_NUM_THREADS=1

python "$here/base.py" "$out"
p2fit run post-train --model "$out/tiny-llama" --text corpus --method width \
  --rate 10% --rate 20% --rate 30% --tokens 100K --evals 8 --eval-tokens 20K --seq-len 64 \
  --batch-tokens 1K --batch-size 16 --lr 1e-3 --calibration 32 --out "$out/curves"
p2fit fit "$out/curves/curves.csv" --law p2-no-size
