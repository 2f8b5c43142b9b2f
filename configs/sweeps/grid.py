"""The rows of a grid: trainings of one model that differ in their seed."""


def add_seeds(add, num_seeds: int, model: str, bottleneck=None, **more) -> None:
    """Adds runs with seeds 0, 1, ... to a sweep, named and labelled alike.

    Args:
        add: That of a `sweep`.
        num_seeds: How many runs.
        model: As in `add_run`.
        bottleneck: As in `add_run`.
        **more: As in `add_run`.
    """
    for seed in range(num_seeds):
        add_run(add, seed, model, bottleneck, **more)


def add_run(
    add,
    seed: int,
    model: str,
    bottleneck=None,
    *,
    objective=None,
    fields=None,
    **more,
) -> None:
    """Adds one run to a sweep, with its name and its labels.

    Figures group runs by their labels: the model, the fields of the bottleneck,
    the objective if it is one of several, and the seed.

    Args:
        add: That of a `sweep`.
        seed: Of the training.
        model: In names and labels.
        bottleneck: Fields of the bottleneck and their values, such as
            `{"beta": 0.01}`; None leaves them as the config has them.
        objective: In names and labels; None for neither.
        fields: More changes of the config.
        **more: Arguments of `add` that are the same for all seeds: `config`,
            the module of another config; `audits`; `landscape`.
    """
    swept = bottleneck or {}
    labels = {"model": model, **swept}
    words = [model, *(f"{k}_{v:g}" for k, v in swept.items())]
    if objective is not None:
        labels["objective"] = objective
        words.append(objective)
    changes = {f"bottleneck.{k}": v for k, v in swept.items()}
    add(
        "_".join([*words, f"seed_{seed}"]),
        {**changes, **(fields or {}), "seed": seed},
        labels={**labels, "seed": seed},
        **more,
    )
