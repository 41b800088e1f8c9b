#!/usr/bin/env bash
#SBATCH --job-name=ddad_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
# One process per node; JAX finds the others through SLURM. RUNS is a folder that all nodes see.
set -euo pipefail
: "${RUNS:?the folder of runs, on a file system that all nodes share}"
code=0
srun "$RUNS/venv/bin/ddad_jax" --config=mvtec --workdir="$RUNS/mvtec" \
  --config.data.root="$RUNS/data/mvtec" --config.dtype=bfloat16 \
  --config.mesh.data=2 --config.mesh.model=8 --config.denoiser.training.batch_size=256 || code=$?
# Exit code 75: interrupted; the same command continues.
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
