# Sourced by the job scripts. Signals of Slurm reach the ranks, and what they could not finish is started again.
# shellcheck shell=bash

# srun does not take the CPUs of a rank from the job by itself
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
# a rank that died ends the others, which would wait for it
export SLURM_KILL_BAD_EXIT=1

ppfl_ranks=""
ppfl_warned=""
ppfl_final=""
# bash by itself would keep a signal until the command ends
trap 'ppfl_forward USR1' USR1
trap 'ppfl_final=yes; ppfl_forward TERM' TERM
ppfl_forward() {
  local signal=$1
  ppfl_warned=yes
  # srun takes TERM for an order to kill the ranks
  if [[ -v SLURM_JOB_ID ]]; then signal=USR1; fi
  if [[ $ppfl_ranks ]]; then kill -"$signal" "$ppfl_ranks" 2>/dev/null || true; fi
}

# Run a command and return its exit code. When it was stopped with everything saved (75), Slurm queues this job again;
# not when `ppfl stop` did it (76).
or_requeue() {
  local code=75 starts=0
  # whose ranks have found each other make this file
  PPFL_BEGUN=$(mktemp -u "${TMPDIR:-/tmp}/ppfl-begun.XXXXXXXXXX")
  export PPFL_BEGUN
  until [[ $ppfl_warned ]]; do
    start_and_wait "$@"
    starts=$((starts + 1))
    # MPI itself may fail while it starts, and all is well the next time, e.g. an MPICH of the site whose addresses
    # Slurm cuts (ppfl/jobs/launcher.py)
    if ((code <= 2 || code == 75 || code == 76 || starts == 3)) || [[ $ppfl_warned || -e $PPFL_BEGUN ]]; then break; fi
    echo "ppfl: the ranks ended before they had found each other (exit code $code), and are started again" >&2
  done
  rm -f "$PPFL_BEGUN"
  # ranks that were signalled before they could listen have ended with another code, and have lost nothing
  if [[ $ppfl_warned ]] && ((code > 2 && code != 76)); then code=75; fi
  if ((code == 75)); then requeue_this_job; fi
  # not what is done, a mistake of the user, or stopped with everything saved
  if ((code != 0 && code != 2 && code != 75 && code != 76)); then why_it_ended "$code" "$@"; fi
  return "$code"
}

# Run a command and set `code`.
start_and_wait() {
  "$@" &
  ppfl_ranks=$!
  # a trapped signal ends `wait`, not the command
  while kill -0 "$ppfl_ranks" 2>/dev/null; do wait "$ppfl_ranks" || true; done
  code=0
  wait "$ppfl_ranks" || code=$?
  ppfl_ranks=""
}

# A step that is killed for its memory is killed with all who could have said so.
why_it_ended() {
  if [[ -v SLURM_JOB_ID ]]; then timeout 120 python -m ppfl ended "$@" || true; fi
}

# Only a job that runs: one that was cancelled, or told to end, is not to come back.
requeue_this_job() {
  if [[ $ppfl_final || ! -v SLURM_JOB_ID ]]; then return; fi
  # the bare id of an array's task may mean the whole array
  local job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
  job="${job:-$SLURM_JOB_ID}"
  if [[ $(timeout 30 squeue --noheader --jobs="$job" --format=%T) != RUNNING ]]; then return; fi
  echo "ppfl: job $job goes back to the queue, to continue later" >&2
  # Slurm ends this script while it sleeps
  if timeout 30 scontrol requeue "$job"; then sleep 60; fi
}
