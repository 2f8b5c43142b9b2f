"""Tasks on many processes or machines, by Dask distributed.

This package is the only one that imports Dask, and when it is used alone:
the extra `cluster` installs it.

* `tasks`: what is to be done, and what became of it, without Dask.
* `schedulers`: processes of this machine, an existing cluster, or Slurm.
* `engine`: hands tasks out and collects their outcomes.
* `worker`: what a worker does with a task, and how it stops.
"""
