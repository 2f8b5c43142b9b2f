'''Data sets as arrays, and batches of them that are a function of a seed.

A part of this package is a module with a function `build(**arguments)` that
returns a `DataSource` (`source.py`): what the images look like, what the
classes are called, and `load(split)`, which gives the images as uint8, or as
float32 in [0, 1], and the labels as int32. The data sets that the library is
built for fit into memory, so nothing is streamed.

The parts: `mnist` and `cifar10` (TensorFlow Datasets), `tfds` (any image data
set in its catalogue), `npz` (an archive of the user's own images and labels),
`image_folder` (image files, a folder for each class), `digits` (real images
that need no network), `random_images` (synthetic, for tests and smoke runs),
`toy_overlap` and `toy_tsipras` (the paper's toy problems, newly drawn for each
batch). `plugins.names("data")` lists them all.

Beside the parts:

* `batches`: training batches that start at any step, and padded evaluation
  batches that hold every example exactly once.
* `arrays`: a data set from NumPy arrays or a `tf.data.Dataset`.
* `images`: images of any size converted to those that a model takes.
* `features`: vectors as images, for data sets that are drawn.
* `augment`: random crops and flips of a whole batch at once.
* `source`: `DataSource`, `make` and `read`, `to_float`,
  `channel_statistics`.
* `splits`, `prepared`: the split strings, and folders prepared by TFDS.

Images stay uint8 until the device (`source.to_float`): a quarter of the bytes
to copy. A model's own normalisation is inside the model.

Example:
    >>> from ib_keras import plugins
    >>> from ib_keras import seeds
    >>> from ib_keras.data import batches
    >>> source = plugins.build("data", {"name": "random_images"})
    >>> images, labels = source.load("train[:90%]")
    >>> dataset = batches.train_batches(
    ...     images,
    ...     labels,
    ...     batch_size=100,
    ...     seed=seeds.from_int(0),
    ...     start_step=7,
    ...     num_steps=2,
    ...     augment=source.augment,
    ... )
    >>> [batch.shape[0] for batch, _ in dataset]
    [100, 100]

A new data set is a new file; this one would be named in a config as
`data.name = "stripes"`, or by its dotted path if it lives elsewhere:

    """Striped images; the class is the direction of the stripes."""

    def build(num_examples=1000):
        def load(split):
            ...
            return images, labels  # uint8 [n, 8, 8, 1], int32 [n]

        return DataSource(
            name="stripes",
            description="stripes",
            image_shape=(8, 8, 1),
            class_names=("along", "across"),
            load=load,
        )

The suite `tests/contracts/data_contract_test.py` then tests it by itself.
'''
