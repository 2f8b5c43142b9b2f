import keras
import pytest
import tensorflow as tf

from ib_keras import errors


def user_error(kind=errors.UserError):
    return kind("No room", received="1 byte", expected="2", fix="Make room.")


def test_the_text_has_what_was_received_what_was_expected_and_the_fix():
    error = user_error()
    assert str(error) == (
        "No room. Received: 1 byte. Expected: 2. Fix: Make room."
    )
    assert (error.what, error.received) == ("No room", "1 byte")
    assert (error.expected, error.fix) == ("2", "Make room.")


def test_names_out_of_a_model_do_not_act_on_a_terminal():
    name = "a\x1b[2K\u202eb\x00c\n" + 1_000_000 * "d"
    error = errors.UserError("No", received=name, expected="é 数", fix="Do.")
    text = str(error)
    assert text.startswith("No. Received: a[2Kbc dddd")
    assert text.endswith("d.... Expected: é 数. Fix: Do.")
    assert text.isprintable() and len(text) < 3000
    assert error.received == name


def test_exit_statuses_are_those_of_the_command_line():
    assert errors.UserError.exit_status == 2
    assert errors.UnsafeError.exit_status == 3
    assert errors.Interrupted.exit_status == 75


def test_an_interruption_is_no_error_of_the_user():
    assert not issubclass(errors.Interrupted, errors.UserError)
    assert issubclass(errors.UnsafeError, errors.UserError)
    assert issubclass(errors.UserError, ValueError)


def test_an_unknown_name_lists_the_valid_ones_and_suggests_the_nearest():
    error = errors.unknown_name("attack", "pdg", ["pgd", "fgs"], "Correct it.")
    assert str(error) == (
        'No attack has this name. Received: "pdg". Expected: one of fgs, pgd. '
        'Fix: Did you mean "pgd"? Correct it.'
    )


def test_nothing_is_suggested_where_nothing_is_near():
    error = errors.unknown_name("attack", "xyz", ["pgd", "fgs"], "Correct it.")
    assert error.fix == "Correct it."


@pytest.mark.parametrize(
    ("name", "valid", "meant"),
    [
        ("L2", ["l2", "linf"], "l2"),
        ("NCHW", ["channels_first", "channels_last"], "channels_first"),
        ("nhwc", ["channels_first", "channels_last"], "channels_last"),
        ("CE", ["cross_entropy", "dlr", "margin"], "cross_entropy"),
        ("--config.attack.steps", ["--config.attack.num_steps"], "num_steps"),
        ("Adam", ["adam", "sgd"], "adam"),
    ],
)
def test_what_is_called_otherwise_elsewhere_is_suggested(name, valid, meant):
    error = errors.unknown_name("thing", name, valid, "Correct it.")
    assert "Did you mean" in error.fix and meant in error.fix


def test_a_name_of_another_type_is_an_unknown_name():
    error = errors.unknown_name("attack", None, ["pgd"], "Correct it.")
    assert '"None"' in str(error)


@pytest.mark.parametrize("kind", [errors.UserError, errors.UnsafeError])
def test_tracing_does_not_replace_the_error(kind):
    error = user_error(kind)

    @tf.function
    def traced(x):
        raise error

    with pytest.raises(kind) as caught:
        traced(tf.constant(1.0))
    assert caught.value is error


def test_a_keras_layer_does_not_replace_the_error():
    error = user_error()

    class Refusing(keras.layers.Layer):
        def call(self, x):
            raise error

    with pytest.raises(errors.UserError) as caught:
        Refusing()(tf.constant([1.0]))
    assert caught.value is error
