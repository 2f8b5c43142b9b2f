"""Training objectives: what one step of a training minimises.

A part is a module with `build(steps_per_epoch, **config section)` that returns
a `base.Objective`: a callable from a model and a batch to `base.Terms`. It is
independent of the bottleneck. `standard` is the objective of the paper.
"""
