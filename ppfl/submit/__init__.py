"""Jobs for Slurm, made from the scripts in slurm/."""
