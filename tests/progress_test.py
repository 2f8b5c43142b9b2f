"""Progress where there is no terminal: lines, and no guess out of nothing."""

from ib_keras.progress import Progress


def test_time_left_is_told_once_something_is_done(capsys):
    with Progress(
        10, "run", "sweep", done=4, seconds_between_lines=0.0
    ) as progress:
        progress.update(4, now="a: training")
        progress.update(7, now="b")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "sweep: 4/10 run, now a: training"
    assert second == "sweep: 7/10 run, 0.0 min left, now b"


def test_quiet_is_quiet(capsys):
    with Progress(
        2, "run", "sweep", quiet=True, seconds_between_lines=0.0
    ) as progress:
        progress.update(1)
        progress.say("something")
    assert capsys.readouterr().err == ""
