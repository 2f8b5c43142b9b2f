import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from ib_keras import seeds

# Of the reference implementation of Salmon et al., file kat_vectors: key,
# counter, result.
KNOWN_ANSWERS = (
    ("00000000 00000000", "00000000 00000000", "6b200159 99ba4efe"),
    ("ffffffff ffffffff", "ffffffff ffffffff", "1cb996fc bb002be7"),
    ("13198a2e 03707344", "243f6a88 85a308d3", "c4923a9c 483df7a0"),
)


def words(text: str) -> tuple[tf.Tensor, tf.Tensor]:
    return tuple(tf.constant(int(w, 16), tf.uint32) for w in text.split())


def signed(text: str) -> list[int]:
    return [int(np.uint32(int(w, 16)).astype(np.int32)) for w in text.split()]


def rows(count: int) -> tf.Tensor:
    return seeds.fold(seeds.from_int(17), tf.range(count))


@pytest.mark.parametrize(("key", "counter", "result"), KNOWN_ANSWERS)
def test_threefry_gives_the_published_answers(key, counter, result):
    x, y = seeds.threefry(words(key), words(counter))
    assert f"{int(x):08x} {int(y):08x}" == result


def test_a_fold_and_the_draws_begin_with_the_published_answer():
    _, _, result = KNOWN_ANSWERS[0]
    zero = seeds.from_int(0)
    assert seeds.fold(zero, 0).numpy().tolist() == signed(result)
    top = [int(word, 16) >> 8 for word in result.split()]
    drawn = seeds.uniform(zero[None], (2,)).numpy()[0]
    np.testing.assert_array_equal(drawn * 2**24, top)


@pytest.mark.parametrize(
    ("number", "seed"),
    [
        (0, [0, 0]),
        (7, [7, 0]),
        (2**31, [-(2**31), 0]),
        (2**32 + 5, [5, 1]),
        (-1, [-1, -1]),
    ],
)
def test_a_whole_number_is_its_two_words(number, seed):
    result = seeds.from_int(number)
    assert result.dtype == tf.int32
    assert result.numpy().tolist() == seed


def test_folding_twice_is_folding_both_and_the_order_counts():
    seed = seeds.from_int(3)
    both = seeds.fold(seed, 1, 2).numpy()
    np.testing.assert_array_equal(
        both, seeds.fold(seeds.fold(seed, 1), 2).numpy()
    )
    assert not np.array_equal(both, seeds.fold(seed, 2, 1))
    assert not np.array_equal(both, seeds.fold(seed, 1))


def test_folding_a_batch_is_folding_each():
    seed = seeds.from_int(3)
    batch = seeds.fold(seed, 5, tf.constant([9, 4, 2**31 - 1]))
    each = [seeds.fold(seed, 5, number) for number in (9, 4, 2**31 - 1)]
    np.testing.assert_array_equal(batch, tf.stack(each))
    again = seeds.fold(batch, tf.constant([1, 1, 2]))
    np.testing.assert_array_equal(again[2], seeds.fold(each[2], 2))


def test_no_two_of_many_folds_agree():
    folded = tf.concat([rows(10_000), seeds.fold(rows(10_000), 1)], 0).numpy()
    assert len(np.unique(folded, axis=0)) == 20_000
    # The halves of a seed are as good as the whole, up to birthdays: 20,000
    # draws of 2^32 have 0.05 pairs in expectation.
    for word in range(2):
        assert len(np.unique(folded[:, word])) >= 20_000 - 2


@pytest.mark.parametrize("draw", [seeds.uniform, seeds.normal])
def test_a_row_depends_on_its_own_seed_alone(draw):
    batch = draw(rows(7), (3, 5, 1)).numpy()
    assert batch.shape == (7, 3, 5, 1)
    for i in range(7):
        alone = draw(rows(7)[i : i + 1], (3, 5, 1)).numpy()
        np.testing.assert_array_equal(batch[i], alone[0])
    assert len(np.unique(batch)) == batch.size


def check_mean(sample, mean, deviation):
    """Is the mean of independent draws within 5 standard errors?"""
    assert abs(sample.mean() - mean) < 5 * deviation / np.sqrt(sample.size)


def test_uniform_numbers_are_uniform():
    u = seeds.uniform(rows(500), (401,)).numpy().astype(np.float64)
    assert u.min() >= 0 and u.max() < 1
    grid = u * 2**24
    np.testing.assert_array_equal(grid, np.round(grid))
    check_mean(u, 1 / 2, np.sqrt(1 / 12))
    check_mean((u - 1 / 2) ** 2, 1 / 12, np.sqrt(1 / 180))
    assert scipy.stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    # Along a row, between the halves that share a counter, and across rows.
    v = (u - 1 / 2) * np.sqrt(12)
    check_mean(v[:, 1:] * v[:, :-1], 0, 1)
    check_mean(v[:, :200] * v[:, 201:], 0, 1)
    check_mean(v[1:] * v[:-1], 0, 1)


def test_uniform_numbers_fill_the_interval_asked_for():
    unit = seeds.uniform(rows(9), (50,)).numpy()
    wide = seeds.uniform(rows(9), (50,), -0.25, 0.75).numpy()
    np.testing.assert_allclose(wide, unit - 0.25, rtol=0, atol=1e-7)
    assert wide.min() < -0.2 and wide.max() > 0.7


def test_normal_numbers_are_normal():
    z = seeds.normal(rows(500), (401,)).numpy().astype(np.float64)
    check_mean(z, 0, 1)
    check_mean(z**2, 1, np.sqrt(2))
    check_mean(z**3, 0, np.sqrt(15))
    check_mean(z**4, 3, np.sqrt(96))
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    # Cosine and sine share a radius, but must be independent.
    cosine, sine = z[:, :200], z[:, 201:]
    check_mean(cosine * sine, 0, 1)
    check_mean((cosine**2 - 1) * (sine**2 - 1), 0, 2)
    check_mean(z[:, 1:] * z[:, :-1], 0, 1)
    check_mean(z[1:] * z[:-1], 0, 1)


def test_model_noise_is_normal_and_a_function_of_its_seed():
    z = seeds.noise(seeds.from_int(1), [400, 500]).numpy().astype(np.float64)
    check_mean(z, 0, 1)
    check_mean(z**2, 1, np.sqrt(2))
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    again = seeds.noise(seeds.from_int(1), [400, 500])
    np.testing.assert_array_equal(again, z)
    other = seeds.noise(seeds.from_int(2), [400, 500]).numpy()
    check_mean(other * z, 0, 1)


def per_example(seed):
    batch = seeds.fold(seed, 3, tf.range(7))
    return batch, seeds.uniform(batch, (5, 3)), seeds.normal(batch, (5, 3))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compilation_changes_no_stream(jit_compile):
    seed = seeds.from_int(2**40 + 3)
    eager = per_example(seed)
    compiled = tf.function(per_example, jit_compile=jit_compile)(seed)
    # Whole numbers are exact; logarithms and cosines differ by rounding.
    np.testing.assert_array_equal(eager[0], compiled[0])
    np.testing.assert_array_equal(eager[1], compiled[1])
    np.testing.assert_allclose(eager[2], compiled[2], rtol=1e-5, atol=1e-5)


def test_compilation_changes_model_noise_by_rounding_alone():
    seed = seeds.from_int(1)
    eager = seeds.noise(seed, [300, 100])
    graph = tf.function(seeds.noise)(seed, [300, 100])
    by_xla = tf.function(seeds.noise, jit_compile=True)(seed, [300, 100])
    np.testing.assert_allclose(graph, eager, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_xla, eager, rtol=1e-4, atol=1e-5)
