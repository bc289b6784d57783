"""``action=submit``: a sweep as an array of SLURM jobs, and the job that reports on it."""
