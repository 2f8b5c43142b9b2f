"""A model card: README.md with front matter as the Hugging Face hub reads it.

The metadata follow the hub's model card specification: `library_name`,
`datasets`, `metrics` and a `model-index` of results. No library of the hub is
needed to write it. A robust accuracy that its own audit calls invalid is in the
text alone: metadata are shown in tables without the verdict.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from ib_keras.audit import formats
from ib_keras.audit.formats import markdown
from ib_keras.audit.formats import rows
from ib_keras.audit.formats import verdicts
from ib_keras.audit.report import load
from ib_keras.audit.report import names
from ib_keras.audit.report import text
from ib_keras.errors import UserError

# Our data sets and their names on the hub.
_HUB_DATASETS = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}


def build() -> formats.Format:
    """Builds the format."""
    return formats.Format("README.md", render, is_completed_by_hand=True)


def render(audits: Sequence[load.Audit]) -> formats.Document:
    """Renders the card of one model from its audits.

    Raises:
        UserError: If the audits are of different models.
    """
    models = sorted({str(audit.model.sha256) for audit in audits})
    if len(models) > 1:
        raise UserError(
            "A model card is about one model",
            received=f"audits of {len(models)} models",
            expected="audits with the same model sha256",
            fix="Write a card for each model.",
        )
    front = yaml.safe_dump(
        metadata(audits), sort_keys=False, allow_unicode=True
    )
    parts = [_title(audits[0]), *_robustness(audits), *_model(audits[0])]
    return formats.Document(
        f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n",
        (
            "The card has no license and no words on intended use: add them "
            "before you share the model.",
        ),
    )


def metadata(audits: Sequence[load.Audit]) -> dict[str, Any]:
    """The front matter, as nested plain values.

    Args:
        audits: Audits of one model.

    Returns:
        The fields of the hub's model card specification.
    """
    listed = rows.of_all(audits)
    datasets = sorted({_hub_name(row) for row in listed})
    return {
        # The hub's own Keras snippet loads .keras files, not a SavedModel.
        "library_name": "ib_keras" if _is_ours(audits[0]) else "tensorflow",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "information-bottleneck"]
        if _is_ours(audits[0])
        else ["adversarial-robustness"],
        "datasets": datasets,
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": listed[0].model,
                "results": [_result(audit) for audit in audits],
            }
        ],
    }


def _result(audit: load.Audit) -> dict[str, Any]:
    verdict = verdicts.of(audit)
    listed = rows.of(audit)
    count = {"num_examples": audit.num_examples}
    metrics = [_metric("Clean accuracy", listed[0].clean, count)]
    if verdict is None or verdict.label != "invalid":
        for row in listed:
            metrics.append(_robust_metric(row))
            if row.certified is not None:
                metrics.append(_certified_metric(audit, row, row.certified))
    return {
        "task": {"type": "image-classification"},
        "dataset": {
            "type": _hub_name(listed[0]),
            "name": listed[0].dataset,
            "split": listed[0].split,
        },
        "metrics": metrics,
    }


def _robust_metric(row: rows.Row) -> dict[str, Any]:
    name = (
        f"Robust accuracy, {text.norm(row.norm)} {text.epsilon(row.epsilon)}, "
        f"{rows.protocol(row)} ({row.verdict})"
    )
    return _metric(
        name,
        row.robust,
        {
            "norm": row.norm,
            "epsilon": row.epsilon,
            "protocol": rows.protocol(row),
            "ib_keras": row.version,
            "mode": rows.mode(row),
            "num_examples": row.num_examples,
            "restarts": row.restarts,
            "gradient_evaluations": row.gradient_evaluations,
            "verdict": row.verdict,
        },
    )


def _certified_metric(
    audit: load.Audit, row: rows.Row, certified: float
) -> dict[str, Any]:
    said = audit.certification
    arguments = {
        "norm": row.norm,
        "epsilon": row.epsilon,
        "method": said and said.method,
        "statement": said and said.statement,
        "confidence": said and said.confidence,
        "num_examples": row.num_examples,
    }
    return {
        "type": "accuracy",
        "value": round(certified, 6),
        "name": f"Certified accuracy, {text.norm(row.norm)} "
        f"{text.epsilon(row.epsilon)}",
        "args": {k: v for k, v in arguments.items() if v is not None},
    }


def _metric(name: str, share: rows.Share, arguments) -> dict[str, Any]:
    interval = [round(share.low, 6), round(share.high, 6)]
    return {
        "type": "accuracy",
        "value": round(share.value, 6),
        "name": name,
        "args": {
            "interval_95": interval,
            **{k: v for k, v in arguments.items() if v is not None},
        },
    }


def _title(audit: load.Audit) -> str:
    return f"# {markdown.escape(names.of([audit])[0])}"


def _robustness(audits: Sequence[load.Audit]) -> list[str]:
    parts = ["## Adversarial robustness"]
    for audit, name in zip(audits, names.labels(audits), strict=True):
        title = rows.protocol(rows.of(audit)[0])
        if len(audits) > 1:
            title = f"{name}, {title}"
        parts.append(
            f"**Verdict** on {markdown.escape(title)}: "
            f"{markdown.judgement(audit)}"
        )
    listed = rows.of_all(audits)
    parts.append(markdown.table(listed))
    parts.append(
        "Robust accuracy is the share of all examples that are classified "
        "right and that no attack of the protocol broke: never a lower bound. "
        + (
            "Certified accuracy is the share that is proved to have no "
            "adversarial image: a lower bound, and the truth lies between. "
            if rows.are_certified(listed)
            else ""
        )
        + "Intervals are of the sample of examples alone."
    )
    commands = sorted({audit.command for audit in audits if audit.command})
    if commands:
        parts.append("To audit it again:")
        parts += [_code(command, "bash") for command in commands]
    return parts


def _model(audit: load.Audit) -> list[str]:
    facts = {
        "Data": audit.dataset.get("description") or audit.dataset.get("name"),
        "Images": audit.model.metadata.get("input_shape"),
        "Classes": audit.model.metadata.get("num_classes"),
        "Outputs": audit.model.outputs,
        "Training step": audit.model.recorded_step,
        "SavedModel sha256": audit.model.sha256,
        "Safety check of the files": audit.safety and audit.safety.status,
        "Audited with": ", ".join(
            f"{name} {version}" for name, version in audit.versions.items()
        ),
    }
    lines = [
        f"- {name}: {markdown.escape(value)}"
        for name, value in facts.items()
        if value not in (None, "")
    ]
    parts = ["## Model", "\n".join(lines)]
    if _is_ours(audit):
        parts.append(
            _code(
                "import tensorflow as tf\n\n"
                'model = tf.saved_model.load("saved_model")\n'
                "logits = model.mean(images)  # float32, in [0, 1]",
                "python",
            )
        )
    return parts


def _code(content: str, language: str) -> str:
    """A fenced block that the content cannot close."""
    content = text.clean_lines(content)
    fence = "```"
    while fence in content:
        fence += "`"
    return f"{fence}{language}\n{content}\n{fence}"


def _hub_name(row: rows.Row) -> str:
    name = row.dataset.removeprefix("tfds:")
    return _HUB_DATASETS.get(name, name)


def _is_ours(audit: load.Audit) -> bool:
    if audit.model.kind is not None:
        return audit.model.kind == "ib_keras"
    return "config" in audit.model.metadata  # Of an older audit.
