#!/bin/sh
# Make the runs of sweep.toml in FOLDER: run.sh FOLDER
# The text first, then a size's base and all that is pruned from it, then the next larger size. Killed
# at any moment, the same command goes on. It needs p2fit with its adapters, and their python, on PATH.
# FOLDER/compute.txt: when each run ended, and below it the CPU time of all runs since the start.
set -e
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
[ -d text ] || python "$here/corpus.py" text
[ -f sweep.toml ] || cp "$here/sweep.toml" .  # editing the original does not disturb these runs
order=$(python - <<'END'
from p2fit_adapters.sweep import read_sweep

sweep = read_sweep("sweep.toml", "runs")
sizes = {job.model: job.params for job in sweep.jobs if job.kind == "pretrain"}
print(*sorted(range(len(sweep.jobs)), key=lambda i: sizes[sweep.jobs[i].model]))
END
)
for index in $order; do
  nice -n 19 p2fit run sweep sweep.toml --out runs --index "$index" || failed=1
  echo "$(date -u +%FT%TZ) run $index" >> compute.txt
  times >> compute.txt
done
exit ${failed:-0}
