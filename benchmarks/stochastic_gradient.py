"""The stochastic mode's input gradient at S = 12 against the mean mode's.

python -m benchmarks.stochastic_gradient

The lower bound is the mean mode: the encoder runs once in both. In addition
there is the noise, 12 x batch x 256 normal numbers, and 12 passes of the
decoder.
"""

import tensorflow as tf

from benchmarks import models
from benchmarks import timing
from ib_keras import seeds

BATCH = 500
CALLS = 10


def main():
    model = models.build("mnist", "vib")
    images, labels = models.batch("mnist", BATCH)
    seed = seeds.from_int(0)

    def gradient_of(logits_of):
        @tf.function
        def gradient(x, seed):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels, logits_of(x, seed)
                )
            return tape.gradient(loss, x)

        def run():
            for _ in range(CALLS - 1):
                gradient(images, seed)
            return gradient(images, seed).numpy()

        return run

    functions = {
        "mean": gradient_of(lambda x, seed: model(x)),
        "stochastic, latents": gradient_of(
            lambda x, seed: model(x, mode="stochastic", noise_seed=seed)
        ),
        "stochastic, logits": gradient_of(
            lambda x, seed: model(
                x, mode="stochastic", noise_seed=seed, sampling="logits"
            )
        ),
    }
    units = dict.fromkeys(functions, CALLS)
    table = timing.compare(functions, units, "mean")
    timing.show(
        f"MNIST VIB, batch {BATCH}, S = 12",
        table,
        {"stochastic, latents": 1.7, "stochastic, logits": 1.3},
    )


if __name__ == "__main__":
    main()
