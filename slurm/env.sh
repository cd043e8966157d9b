# Facts of this site, and the only file to change for it. Sourced on the login node before sbatch, and by every job.
# shellcheck shell=bash

# Where jobs go, for sbatch and ppfl submit alike; whatever sbatch reads from its environment may stand here.
#export SBATCH_ACCOUNT=project123
#export SBATCH_PARTITION=gpu
#export SBATCH_MEM_PER_CPU=4G

# Modules of the site: Python, MPI, CUDA.
#module load python/3.11 mpich

# The environment with ppfl.
_ppfl_activate="$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/activate"
if [[ -f $_ppfl_activate ]]; then
  # shellcheck source=/dev/null
  source "$_ppfl_activate"
fi
unset _ppfl_activate

# What starts the ranks. It has to fit the MPI library: `ppfl doctor` shows which one mpi4py loads.
#   MPICH and its relatives      srun --mpi=pmi2
#   Open MPI 4 and newer         srun --mpi=pmix
#   where srun cannot do it      mpiexec -n "${SLURM_NTASKS:-1}"
PPFL_LAUNCHER=(srun --mpi=pmi2)
