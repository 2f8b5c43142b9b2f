"""A data set of a user's own, whose name is not that of its module."""

from ib_keras.data import digits
from ib_keras.data.source import DataSource


def build(name: str = "my digits", split_of: str = "test") -> DataSource:
    """Digits by another name."""
    source = digits.build()
    return DataSource(
        name=name,
        description="digits of my own",
        image_shape=source.image_shape,
        class_names=source.class_names,
        load=lambda split: source.load(split.replace("test", split_of)),
    )
