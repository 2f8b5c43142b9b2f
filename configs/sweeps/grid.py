"""The rows of a grid: trainings of one model that differ in their seed."""


def add_seeds(add, num_seeds: int, model: str, bottleneck=None, **more) -> None:
    """Adds runs with seeds 0, 1, ... to a sweep, named and labelled alike.

    Figures group runs by their labels: the model, the fields of the bottleneck
    and the seed.

    Args:
        add: That of a `sweep`.
        num_seeds: How many runs.
        model: In names and labels.
        bottleneck: Fields of the bottleneck and their values, such as
            `{"beta": 0.01}`; None leaves them as the config has them.
        **more: Arguments of `add` that are the same for all seeds: `config`,
            the module of another config; `audits`; `landscape`.
    """
    fields = bottleneck or {}
    name = "_".join([model, *(f"{k}_{v:g}" for k, v in fields.items())])
    for seed in range(num_seeds):
        add(
            f"{name}_seed_{seed}",
            {**{f"bottleneck.{k}": v for k, v in fields.items()}, "seed": seed},
            labels={"model": model, **fields, "seed": seed},
            **more,
        )
