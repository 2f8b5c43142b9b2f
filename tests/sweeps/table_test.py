"""The table: its columns and their order, and nothing of a clock in it."""

from ib_keras.sweeps import table
from ib_keras.sweeps.plan import Run


def run(name, **labels):
    return Run(name, labels, {}, {}, None)


def record(curve=(), **changes):
    audit = {
        "threat_model": {"norm": "linf", "epsilon": 8 / 255},
        "robust_accuracy": 0.125,
        "epsilon_curve": [
            {"epsilon": e, "robust_accuracy": a} for e, a in curve
        ],
    }
    return {
        "collapsed": None,
        "result": {"step": 3, "accuracy": 0.875, "loss": 1.0},
        "audits": {"fgs": audit},
        "seconds": {"train": 1.0},
        **changes,
    }


def states():
    return [
        (run("a", model="vib", beta=1e-3, seed=0), "to do", None),
        (
            run("b", model="vib", beta=0.1, seed=0),
            "done",
            record(
                [(0.2, 0.5), (0.35, 1 / 3)],
                collapsed="collapsed: clean accuracy 0.1 < 0.55",
                result={"accuracy": 0.1, "adversarial/accuracy": 0.25},
            ),
        ),
        (run("c", model="deterministic", seed=0), "done", record()),
        (
            run("d", model="deterministic", seed=1),
            "failed",
            {"collapsed": None, "result": None, "audits": {}},
        ),
    ]


def test_a_row_has_labels_accuracies_and_each_radius():
    text = table.to_csv(table.rows(states()))
    assert text == (
        "name,model,beta,seed,status,collapsed,accuracy,adversarial/accuracy,"
        "fgs@0.2,fgs@0.35,fgs@0.0313725\n"
        "a,vib,0.001,0,to do,,,,,,\n"
        "b,vib,0.1,0,done,collapsed: clean accuracy 0.1 < 0.55,0.100000,"
        "0.250000,0.500000,0.333333,\n"
        "c,deterministic,,0,done,,0.875000,,,,0.125000\n"
        "d,deterministic,,1,failed,,,,,,\n"
    )


def test_the_console_has_four_digits_and_no_empty_columns():
    found = table.rows(states()[:2])
    lines = table.to_text(found).splitlines()
    assert lines[0].split() == [
        *("name", "model", "beta", "seed", "status", "collapsed"),
        *("accuracy", "adversarial/accuracy", "fgs@0.2", "fgs@0.35"),
    ]
    assert lines[2].split() == [
        *("b", "vib", "0.1", "0", "done", "yes"),
        *("0.1000", "0.2500", "0.5000", "0.3333"),
    ]
    assert "collapsed" not in table.to_text(table.rows(states()[:1]))
