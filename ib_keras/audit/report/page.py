"""Puts an audit's parts into the templates.

A section of the page is a template in `templates/`, named in `SECTIONS` in
the order of reading; it sees one `View`. To add a section, add the template,
its name here and, if it needs more than the audit holds, a field to `View`.

All text is foreign until shown otherwise: what a template prints is cut to
one clean line by `_finalize` and then escaped by Jinja, once. A template that
wants several lines says `| lines`.
"""

import dataclasses
import json
from collections.abc import Mapping
from collections.abc import Sequence

import jinja2
import markupsafe
import numpy as np

from ib_keras.audit.report import charts
from ib_keras.audit.report import examples
from ib_keras.audit.report import load
from ib_keras.audit.report import text

SECTIONS = ("headline", "curves", "stages", "examples", "protocol")


@dataclasses.dataclass(frozen=True)
class View:
    """One audit with all that its sections show."""

    audit: load.Audit
    name: str
    letter: str
    position: int
    clean_interval: tuple[float, float] | None
    examples_accuracy: float
    charts: tuple[charts.Chart, ...]
    examples: examples.Examples


def render(
    audits: Sequence[load.Audit],
    clean_images: Mapping[str, np.ndarray],
) -> str:
    """Renders the page.

    Args:
        audits: One audit or several, in the order to show them.
        clean_images: Folder -> images before the attack, where at hand.

    Returns:
        The HTML.
    """
    views = [
        _view(audit, position, clean_images.get(audit.folder))
        for position, audit in enumerate(audits)
    ]
    return (
        _environment()
        .get_template("page.html")
        .render(
            views=views,
            sections=SECTIONS,
            differences=_differences(audits),
            overlays=_charts(audits, "overlay") if len(audits) > 1 else (),
        )
    )


def _view(audit: load.Audit, position: int, clean_images) -> View:
    return View(
        audit=audit,
        name=text.clean(text.model_name(audit.model_path), 60),
        letter=charts.letter(position),
        position=position,
        clean_interval=charts.accuracy_interval(
            audit.clean_accuracy, audit.num_examples
        ),
        examples_accuracy=float(audit.examples["is_robust"].mean()),
        charts=_charts([audit], f"audit{position}"),
        examples=examples.choose(audit, clean_images),
    )


def _charts(
    audits: Sequence[load.Audit], name: str
) -> tuple[charts.Chart, ...]:
    norms = sorted({audit.threat_model.norm for audit in audits})
    found = [charts.restarts(audits, f"{name}-restarts")]
    found.append(charts.gradients(audits, f"{name}-gradients"))
    found += [charts.epsilons(audits, norm, f"{name}-{norm}") for norm in norms]
    return tuple(chart for chart in found if chart)


def _differences(audits: Sequence[load.Audit]) -> list[str]:
    """What the audits do not share, for which their numbers differ too."""
    aspects = {
        "data set": lambda audit: text.arguments(audit.dataset),
        "number of examples": lambda audit: audit.num_examples,
        "norm": lambda audit: audit.threat_model.norm,
        "epsilon": lambda audit: audit.threat_model.epsilon,
        "mode": lambda audit: audit.mode,
        "protocol": lambda audit: (audit.protocol, audit.protocol_version),
        "attacks or restarts": lambda audit: [
            (stage.attack, stage.num_restarts) for stage in audit.stages
        ],
    }
    return [
        name
        for name, aspect in aspects.items()
        if len({str(aspect(audit)) for audit in audits}) > 1
    ]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ib_keras.audit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "short": text.clean,
        "lines": lambda value: markupsafe.escape(text.clean_lines(value)),
        "json": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
        "breakable": _breakable,
        "percent": text.percent,
        "interval": text.interval,
        "count": text.count,
        "duration": text.duration,
        "epsilon": text.epsilon,
        "norm": text.norm,
        "arguments": text.arguments,
    }
    environment.globals |= {"quantity": text.quantity}
    return environment


def _breakable(name: str) -> markupsafe.Markup:
    """A name that may go on in the next line after an underscore."""
    parts = text.clean(name).split("_")
    return markupsafe.Markup("_<wbr>").join(parts)


def _finalize(value):
    """What every `{{ ... }}` passes through before it is escaped."""
    if isinstance(value, markupsafe.Markup | int | float):
        return value
    return text.clean(value)
