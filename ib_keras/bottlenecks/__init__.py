"""Bottlenecks: a posterior layer, a marginal layer and the weight of the rate.

A part is a module with `build(num_classes, steps_per_epoch, **config section)`
that returns a `base.Bottleneck`.
"""
