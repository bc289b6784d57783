#!/bin/bash
# Spread one experiment over an array of SLURM jobs, then build its table.
#
#   slurm/submit.sh SLICES [SETTING ...]
#   slurm/submit.sh 8 +experiment=helmet_recall model=/models/Llama-3.1-8B
#   OPTIONS='--partition=h100 --time=12:00:00' slurm/submit.sh 4 +experiment=probe_gpu
#
# SLICES is the number of jobs; each takes every SLICES-th cell, the dense baseline's among them.
# OPTIONS goes to sbatch for the array (CPU nodes: OPTIONS=--gres=none), REPORT_OPTIONS for the table.
# Submit the same line again after a failure: finished samples are kept, and a cell that another job
# is writing is left to it. Run `make install` on the cluster first; PYTHON picks another interpreter.
set -euo pipefail

if [[ $# -lt 1 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
fi
slices=$1
shift
cd "$(dirname "$0")/.."

# Composing the settings here finds a misspelt one before anything is queued.
config=$("${PYTHON:-.venv/bin/python}" -m rr_bench "$@" --cfg job --resolve)
out=$(sed -n 's/^out: //p' <<<"$config")

# shellcheck disable=SC2086  # OPTIONS is a list of words
job=$(sbatch --parsable --array="1-$slices" --export="ALL,SLICES=$slices" ${OPTIONS:-} \
  slurm/array.sbatch "$@")
# shellcheck disable=SC2086
report=$(sbatch --parsable --dependency="afterany:${job%%;*}" ${REPORT_OPTIONS:-} \
  slurm/report.sbatch "$out")
echo "array $job: $slices slices into $out; report $report follows"
