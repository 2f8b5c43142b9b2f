"""Loss surfaces of one trained model, small enough for a record.

The images are the first ones of the test split that the model gets right, each
of another class, so they are not hand-picked. Each surface is that of
`audit.landscape`: from the clean image along the direction of a PGD attack and
along a random one, in units of epsilon.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from ib_keras import seeds
from ib_keras import types
from ib_keras.audit import landscape
from ib_keras.audit import protocol
from ib_keras.audit import subject as subjects
from ib_keras.audit.config import AuditConfig
from ib_keras.audit.config import Dataset
from ib_keras.audit.config import ThreatModel
from ib_keras.audit.landscape import examples as landscape_examples
from ib_keras.audit.landscape import relief
from ib_keras.errors import unknown_name

# The optional fields of a spec.
DEFAULTS = {
    "num_images": 3,
    "num_examples": 32,  # Images of the test split to choose from.
    "num_restarts": 10,
    "num_steps": 20,
    "step_size": None,  # None: as Madry et al., 0.007 at 8/255, in proportion.
    "grid": 41,
    "span": 1.5,
    "batch_size": 128,
}
_MADRY_STEP = 0.007 * 255 / 8


def evaluate(
    saved_model: str, spec: Mapping[str, Any], config: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Evaluates the loss of a model, in mean mode, around a few test images.

    Args:
        saved_model: Folder of the SavedModel.
        spec: `epsilon`, and fields that differ from `DEFAULTS`.
        config: The training config: its seed is that of attack and directions,
            and its `data` has the path of the data set.

    Returns:
        For each image a dict of JSON values: `index` (in the split), `label`,
        `class_name`, `prediction`, `adversarial_prediction`, `is_robust`,
        `epsilon`, `axis_unit` ("epsilon"), `us` and `vs` (the coordinates
        towards the attack and along the random direction), `cross_entropy`
        (nats; rows follow `vs`, columns `us`; None where not finite), `ball`
        (the outline of the l_inf ball, lines of `[u, v]`), `attack_at` (u of
        the attack's image), `attack_cross_entropy`, `wrong_share` (of the
        points in the ball), `attack` (its settings), and `image_shape` and
        `image`, where that has at most 3,072 numbers: a row of pixels a
        string, two hexadecimal digits a channel. Fewer dicts where the model
        gets fewer images right.

    Raises:
        UserError: If a field of the spec is unknown, or the model or its data
            cannot be used.
    """
    for name in spec:
        if name not in {"epsilon", *DEFAULTS}:
            raise unknown_name(
                "field of a landscape",
                name,
                {"epsilon", *DEFAULTS},
                "Correct or remove it in the config's sweep().",
            )
    spec = {**DEFAULTS, **spec}
    audit_config = _audit_config(spec, config)
    subject = subjects.load(audit_config, saved_model)
    rows = _choose(subject, spec["num_images"])
    if not len(rows):
        return []
    chosen = dataclasses.replace(
        subject, images=subject.images[rows], labels=subject.labels[rows]
    )
    ledger = _attack(audit_config, chosen)
    threat_model = types.ThreatModel("linf", spec["epsilon"])
    evaluator = landscape.LandscapeEvaluator(
        chosen.logits_fn,
        threat_model,
        grid=spec["grid"],
        span=spec["span"],
        batch_size=spec["batch_size"],
        take_gradients=False,
    )
    seed = seeds.from_int(audit_config["seed"])
    names = subject.model.metadata.get("class_names")
    surfaces = []
    for position, index in enumerate(rows):
        plane = landscape_examples.plane(
            chosen.images, ledger, position, threat_model, seed
        )
        found = evaluator(plane, seeds.fold(seed, position))
        surfaces.append(
            {
                "index": int(index),
                **_who(ledger, position, names),
                "epsilon": float(spec["epsilon"]),
                "axis_unit": "epsilon",
                **relief.of(found),
                "attack_cross_entropy": relief.number(
                    found.attack_cross_entropy
                ),
                "wrong_share": relief.number(
                    landscape.describe(found).wrong_share
                ),
                "attack": audit_config["stages"]["pgd"],
                **_picture(chosen.images[position]),
            }
        )
    return surfaces


def _audit_config(spec, config):
    """A protocol of one stage, as `audit.subject.load` takes it."""
    step_size = spec["step_size"] or round(_MADRY_STEP * spec["epsilon"], 9)
    data = config["data"]
    attack = {
        "name": "pgd",
        "num_steps": spec["num_steps"],
        "step_size": step_size,
        "loss": "cross_entropy",
        "random_start": True,
        "num_eot": 1,
    }
    return AuditConfig(
        protocol="landscapes",
        seed=config["seed"],
        num_examples=spec["num_examples"],
        batch_size=spec["num_images"],
        dataset=Dataset(
            data_dir=data.get("data_dir"), download=data.get("download")
        ),
        threat_model=ThreatModel("linf", spec["epsilon"]),
        stages={
            "pgd": {"num_restarts": spec["num_restarts"], "attack": attack}
        },
    ).to_dict()


def _choose(subject, num_images) -> np.ndarray:
    """The first correctly classified images, each class once if possible."""
    logits = subject.logits_fn(tf.constant(subject.images), seeds.from_int(0))
    right = np.flatnonzero(np.argmax(logits, axis=1) == subject.labels)
    _, firsts = np.unique(subject.labels[right], return_index=True)
    is_first = np.isin(np.arange(len(right)), firsts)
    order = np.concatenate([right[is_first], right[~is_first]])
    return np.sort(order[:num_images])


def _attack(audit_config, subject):
    stages = protocol.build_stages(audit_config)
    attacks = protocol.build_runner(audit_config, subject, stages)
    start = attacks.start(subject.images, subject.labels)
    return attacks.run(subject.images, start)


def _who(ledger, position, names):
    label = int(ledger.label[position])
    adversarial = ledger.adversarial_prediction[position]
    return {
        "label": label,
        "class_name": str(names[label]) if names else str(label),
        "prediction": int(ledger.clean_prediction[position]),
        "adversarial_prediction": int(adversarial),
        "is_robust": bool(ledger.is_robust[position]),
    }


def _picture(image):
    """The pixels as text, to keep records small; none of large images."""
    if image.size > 32 * 32 * 3:
        return {"image_shape": list(image.shape), "image": None}
    pixels = np.rint(image * 255).astype(np.uint8)
    return {
        "image_shape": list(image.shape),
        "image": [row.tobytes().hex() for row in pixels],
    }
