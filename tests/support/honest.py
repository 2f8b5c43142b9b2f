"""Honest SavedModels as several programs write them."""

import keras
import tensorflow as tf

from ib_keras import export
from tests.support import hostile
from tests.support import models


def vib(folder):
    return export.save(
        models.build("vib"),
        str(folder),
        image_shape=models.IMAGE_SHAPE,
        metadata={},
    )


def keras_export(folder):
    hostile.keras_model().export(str(folder), verbose=False)


def keras_archive(folder):
    model = hostile.keras_model()
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda x: model(x, training=False),
        [tf.TensorSpec([None, *hostile.SHAPE])],
    )
    archive.write_out(str(folder), verbose=False)


def keras_2(folder):
    import tf_keras

    model = tf_keras.Sequential(
        [
            tf_keras.Input(hostile.SHAPE),
            tf_keras.layers.Conv2D(2, 3, activation="relu"),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(3),
        ]
    )
    model.compile("adam", "mse")
    model.save(str(folder))


# Name -> function that saves it in a folder.
MODELS = {
    "tf.Module": hostile.honest,
    "table of constants": hostile.table_model,
    "VIB": vib,
    "Keras 3 export": keras_export,
    "Keras 3 archive": keras_archive,
    "Keras 2": keras_2,
}
