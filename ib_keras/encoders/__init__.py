"""Encoders: networks from normalised images to features.

A part is a module with `build(image_shape, **config section)` that returns a
Keras layer or model from `[batch, height, width, channels]` to
`[batch, features]`. The last dense layer, to the parameters of p(z|x), belongs
to the bottleneck.
"""
