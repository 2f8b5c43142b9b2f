"""From images in [0, 1] to what a model takes: an affine map of each channel.

An audit's images, radii and judgements are in pixel units of [0, 1]. A model
that was trained on other values takes `scale * x + offset`, by channel, which
is a part of the audited function. The recipes are those of common libraries.
"""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from ib_keras.errors import UserError
from ib_keras.errors import unknown_name

CHANNEL_ORDERS = ("rgb", "bgr")
_FIELDS = ("recipe", "scale", "offset", "mean", "std", "channel_order")
_FLAG = "--config.model.preprocessing"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The map from images in [0, 1] to the inputs of a model.

    Attributes:
        scale: One factor, or one for each channel in the model's order.
        offset: One summand, or one for each channel in the model's order.
        channel_order: "rgb", or "bgr" where the order of the channels is
            reversed first.
        recipe: Its name among `RECIPES`; "" where it has none.
    """

    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    channel_order: str = "rgb"
    recipe: str = dataclasses.field(default="", compare=False)

    @classmethod
    def of_range(cls, low: float, high: float) -> "Preprocessing":
        """The map of [0, 1] to a range of values."""
        return cls((high - low,), (float(low),))

    @classmethod
    def of_statistics(
        cls, mean: Sequence[float], std: Sequence[float], recipe: str = ""
    ) -> "Preprocessing":
        """The map `(x - mean) / std`, both in units of [0, 1]."""
        pairs = list(zip(mean, std, strict=True))
        scale = tuple(1.0 / s for _, s in pairs)
        return cls(scale, tuple(-m / s for m, s in pairs), recipe=recipe)

    @property
    def is_identity(self) -> bool:
        """Whether images are not changed."""
        return self == Preprocessing()

    @property
    def channels(self) -> int | None:
        """Its number of channels; None for any number."""
        most = max(len(self.scale), len(self.offset))
        if self.channel_order == "bgr":
            return 3
        return most if most > 1 else None

    @property
    def input_range(self) -> tuple[float, float]:
        """The lowest and the highest value of the model's inputs."""
        ends = np.outer((0.0, 1.0), self.scale) + self.offset
        return float(ends.min()), float(ends.max())

    def epsilon(self, radius: float) -> list[float]:
        """A radius of l_inf in the model's units, one value for each scale."""
        return [abs(scale) * radius for scale in self.scale]

    def describe(self) -> str:
        """In words, for notes and messages."""
        low, high = self.input_range
        text = f"[{low:.4g}, {high:.4g}]"
        if self.channels is not None:
            text += (
                f" by channel, scale {_join(self.scale)}, "
                f"offset {_join(self.offset)}"
            )
        if self.channel_order != "rgb":
            text += ", BGR"
        return f"{text} ({self.recipe})" if self.recipe else text

    def flags(self) -> str:
        """The flags that specify it."""
        low, high = self.input_range
        if self.recipe and self not in _RANGES:
            return f"{_FLAG}.recipe={self.recipe}"
        if self.channels is None:
            return f"--config.model.input_range={low:.6g},{high:.6g}"
        order = self.channel_order
        more = f" {_FLAG}.channel_order={order}" if order != "rgb" else ""
        scale, offset = _join(self.scale), _join(self.offset)
        return f"{_FLAG}.scale={scale} {_FLAG}.offset={offset}{more}"

    def to_json(self) -> dict[str, Any]:
        """As in summaries."""
        return {
            "recipe": self.recipe or None,
            "scale": list(self.scale),
            "offset": list(self.offset),
            "channel_order": self.channel_order,
        }


def _join(values):
    return ",".join(f"{value:.6g}" for value in values)


_CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
_CAFFE_MEANS = (103.939, 116.779, 123.68)

# Name -> preprocessing. The constants of MNIST and of CIFAR-10 are those of
# PyTorch's examples (CIFAR-10's deviation also in the form that was computed
# by batches), those of ImageNet torchvision's and, with BGR, Caffe's, as
# `keras.applications.imagenet_utils.preprocess_input` has both.
RECIPES: dict[str, Preprocessing] = {
    "unit": Preprocessing(recipe="unit"),
    "bytes": Preprocessing((255.0,), (0.0,), recipe="bytes"),
    "signed": Preprocessing((2.0,), (-1.0,), recipe="signed"),
    "centered": Preprocessing((1.0,), (-0.5,), recipe="centered"),
    "inverted": Preprocessing((-1.0,), (1.0,), recipe="inverted"),
    "mnist": Preprocessing.of_statistics((0.1307,), (0.3081,), "mnist"),
    "cifar10": Preprocessing.of_statistics(
        _CIFAR_MEAN, (0.2470, 0.2435, 0.2616), "cifar10"
    ),
    "cifar10_batch_std": Preprocessing.of_statistics(
        _CIFAR_MEAN, (0.2023, 0.1994, 0.2010), "cifar10_batch_std"
    ),
    "imagenet": Preprocessing.of_statistics(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "imagenet"
    ),
    "imagenet_caffe": Preprocessing(
        (255.0,), tuple(-m for m in _CAFFE_MEANS), "bgr", "imagenet_caffe"
    ),
}

# Best described by their lowest and highest value.
_RANGES = [RECIPES[name] for name in ("unit", "bytes", "signed", "centered")]


def candidates(channels: int) -> list[Preprocessing]:
    """The recipes for images of so many channels, the usual ones first."""
    of_gray = channels == 1
    return [
        known
        for name, known in RECIPES.items()
        if known.channels in (None, channels) and (of_gray or name != "mnist")
    ]


def from_config(section: Mapping[str, Any] | None) -> Preprocessing | None:
    """Reads the section `model.preprocessing` of an audit config.

    Args:
        section: `recipe`, or `scale` and `offset`, or `mean` and `std`; and
            `channel_order`. None and fields of None are ignored.

    Returns:
        The preprocessing; None if nothing is specified.

    Raises:
        UserError: If a field is unknown, not a number, or contradicts another.
    """
    for name in section or {}:
        if name not in _FIELDS:
            raise unknown_name(
                "field of model.preprocessing",
                name,
                _FIELDS,
                f"Set {_FLAG}.scale and .offset, .mean and .std, or .recipe.",
            )
    said = {k: v for k, v in (section or {}).items() if v is not None}
    if not said:
        return None
    order = said.pop("channel_order", None)
    if order is not None and order not in CHANNEL_ORDERS:
        raise unknown_name(
            "channel order",
            order,
            CHANNEL_ORDERS,
            f"Set {_FLAG}.channel_order.",
        )
    ways = [
        name
        for name, fields in _WAYS.items()
        if any(field in said for field in fields)
    ]
    if len(ways) > 1:
        raise UserError(
            "The preprocessing is specified in two ways",
            received=", ".join(f"{k}={v!r}" for k, v in said.items()),
            expected="a recipe, or scale and offset, or mean and std",
            fix=f"Keep one of them among {_FLAG}.*.",
        )
    found = _read(said)
    if order is not None and order != found.channel_order:
        found = dataclasses.replace(found, channel_order=order, recipe="")
    return found


_WAYS = {
    "recipe": ("recipe",),
    "scale": ("scale", "offset"),
    "mean": ("mean", "std"),
}


def _read(said) -> Preprocessing:
    if "recipe" in said:
        if said["recipe"] not in RECIPES:
            raise unknown_name(
                "recipe of preprocessing",
                said["recipe"],
                RECIPES,
                f"Set {_FLAG}.recipe to one of them, or .scale and .offset.",
            )
        return RECIPES[said["recipe"]]
    if "mean" in said or "std" in said:
        mean = _numbers("mean", said.get("mean", (0.0,)))
        std = _numbers("std", said.get("std", (1.0,)), is_factor=True)
        count = max(len(mean), len(std))
        return Preprocessing.of_statistics(
            _spread("mean", mean, count), _spread("std", std, count)
        )
    scale = _numbers("scale", said.get("scale", (1.0,)), is_factor=True)
    offset = _numbers("offset", said.get("offset", (0.0,)))
    count = max(len(scale), len(offset))
    return Preprocessing(
        _spread("scale", scale, count), _spread("offset", offset, count)
    )


def _numbers(name, values, is_factor=False) -> tuple[float, ...]:
    try:
        if not isinstance(values, list | tuple):
            values = (values,)
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = ()
    good = all(abs(v) < 1e6 and (v != 0 or not is_factor) for v in found)
    if not (found and good):
        raise UserError(
            f"model.preprocessing.{name} is not a number per channel",
            received=repr(values),
            expected="a finite number, or one for each channel"
            + (", none of them 0" if is_factor else ""),
            fix=f"Set {_FLAG}.{name}=0.5 or ={name}_r,{name}_g,{name}_b.",
        )
    return found


def _spread(name, values, count):
    if len(values) not in (1, count):
        raise UserError(
            "The preprocessing has two numbers of channels",
            received=f"{len(values)} values of {name} beside {count}",
            expected="one value, or one for each channel",
            fix=f"Give {_FLAG}.{name} one value, or {count}.",
        )
    return values * count if len(values) == 1 else values
