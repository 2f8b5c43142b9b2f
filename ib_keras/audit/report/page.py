"""Renders the templates with the parts of an audit.

A section of the page is a template in `templates/`, named in `SECTIONS` in
the order of reading; it sees one `View`. To add a section, add the template,
its name here and, if it needs more than the audit holds, a field to `View`.

All text counts as foreign: what a template prints is cut to one clean line by
`_finalize` and then escaped by Jinja, once. A template uses `| lines` for
several lines.
"""

import dataclasses
import itertools
import json
import shlex
from collections.abc import Mapping
from collections.abc import Sequence

import jinja2
import markupsafe
import numpy as np

from ib_keras.audit.formats import rows
from ib_keras.audit.landscape import drawing
from ib_keras.audit.report import baselines
from ib_keras.audit.report import charts
from ib_keras.audit.report import classes
from ib_keras.audit.report import evidence
from ib_keras.audit.report import examples
from ib_keras.audit.report import load
from ib_keras.audit.report import names
from ib_keras.audit.report import pairs
from ib_keras.audit.report import svg
from ib_keras.audit.report import text

SECTIONS = (
    "verdict",
    "headline",
    "curves",
    "radii",
    "stages",
    "findings",
    "noise",
    "examples",
    "landscapes",
    "classes",
    "model",
    "safety",
    "protocol",
)


@dataclasses.dataclass(frozen=True)
class View:
    """One audit with all data of its sections.

    `anchor` begins the ids of what can be linked to; `name` is that of the
    model, `kind` its bottleneck; `rows` has one row a radius; `workdir` is the
    folder that the audit's command names.
    """

    audit: load.Audit
    anchor: str
    name: str
    kind: str
    rows: tuple[rows.Row, ...]
    letter: str
    position: int
    clean_interval: tuple[float, float] | None
    examples_accuracy: float
    charts: tuple[charts.Chart, ...]
    examples: examples.Examples
    landscapes: tuple[drawing.Drawing, ...]
    evidence: evidence.Evidence | None
    classes: classes.Classes
    workdir: str

    @property
    def has_exceptions(self) -> bool:
        """Whether the model was loaded although the rules refuse it."""
        safety = self.audit.safety
        return safety is not None and safety.has_exceptions

    @property
    def bracket(self) -> markupsafe.Markup:
        """What is proved, what is not known and what is broken, as a bar."""
        low, high = self.audit.certified_accuracy, self.audit.robust_accuracy
        return svg.bracket(low or 0.0, high)

    @property
    def swatch(self) -> markupsafe.Markup:
        """The line of the audit in charts that lay several over each other."""
        return svg.swatch(self.position)


def render(
    audits: Sequence[load.Audit],
    clean_images: Mapping[str, np.ndarray],
    baseline: str | None = None,
) -> str:
    """Renders the page.

    Args:
        audits: One audit or several, in the order to show them.
        clean_images: Folder -> images before the attack, where at hand.
        baseline: The model to compare with, see `pairs.compare`.

    Returns:
        The HTML.
    """
    named = names.of(audits)
    views = [
        _view(audit, name, position, clean_images.get(audit.folder))
        for position, (audit, name) in enumerate(
            zip(audits, named, strict=True)
        )
    ]
    return (
        _environment()
        .get_template("page.html")
        .render(
            views=views,
            sections=SECTIONS,
            differences=_differences(audits),
            overlays=_charts(audits, "overlay") if len(audits) > 1 else (),
            num_models=len(set(named)),
            compared=pairs.compare(audits, baseline),
        )
    )


def _view(audit: load.Audit, name: str, position: int, clean_images) -> View:
    anchor = f"audit{position}"
    return View(
        audit=audit,
        anchor=anchor,
        name=name,
        kind=_kind(audit),
        rows=tuple(rows.of(audit)),
        letter=charts.letter(position),
        position=position,
        clean_interval=charts.accuracy_interval(
            audit.clean_accuracy, audit.num_examples
        ),
        examples_accuracy=float(audit.examples["is_robust"].mean()),
        charts=_charts([audit], anchor),
        examples=examples.choose(audit, clean_images),
        landscapes=drawing.choose(audit, f"{anchor}-landscape"),
        evidence=evidence.describe(audit, anchor),
        classes=classes.describe(audit),
        workdir=_workdir(audit.command),
    )


def _kind(audit: load.Audit) -> str:
    """The bottleneck in short, such as "vib · beta 0.01"; "" if unknown."""
    section = baselines.bottleneck(audit)
    return text.arguments(
        {key: section[key] for key in ("name", "beta") if key in section}
    )


def _workdir(command: str | None) -> str:
    """The folder in the command, quoted for a shell; a placeholder if unknown.

    Not the folder that was read: equal audits give equal pages.
    """
    try:
        words = shlex.split(text.clean_lines(command or ""))
    except ValueError:
        words = []
    for word, following in itertools.pairwise([*words, ""]):
        name, _, value = word.partition("=")
        if name in ("--workdir", "-workdir") and (value or following):
            return shlex.quote(value or following)
    return "AUDIT_FOLDER"


def _charts(
    audits: Sequence[load.Audit], name: str
) -> tuple[charts.Chart, ...]:
    norms = sorted({audit.threat_model.norm for audit in audits})
    found = [charts.restarts(audits, f"{name}-restarts")]
    found.append(charts.gradients(audits, f"{name}-gradients"))
    found += [charts.epsilons(audits, norm, f"{name}-{norm}") for norm in norms]
    return tuple(chart for chart in found if chart)


def _differences(audits: Sequence[load.Audit]) -> list[str]:
    """In what else the audits differ, which also affects their numbers."""
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
        "short": _short,
        "lines": lambda value: markupsafe.escape(text.clean_lines(value)),
        "json": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
        "breakable": _breakable,
        "percent": text.percent,
        "interval": text.interval,
        "count": text.count,
        "known": lambda n: "unknown" if n is None else text.count(n),
        "duration": text.duration,
        "epsilon": text.epsilon,
        "norm": text.norm,
        "arguments": text.arguments,
        "figure": text.figure,
        "points": text.points,
        "p_value": text.p_value,
        "piece": _piece,
    }
    environment.globals |= {
        "certified_of": rows.certified,
        "quantity": text.quantity,
        "letter": charts.letter,
        "protocol_of": rows.protocol,
    }
    return environment


def _short(value, limit: int = 200) -> markupsafe.Markup:
    """One clean line of another length than `_finalize` leaves."""
    return markupsafe.escape(text.clean(value, limit))


def _breakable(name: str) -> markupsafe.Markup:
    """A name that may go on in the next line after an underscore."""
    parts = text.clean(name).split("_")
    return markupsafe.Markup("_<wbr>").join(parts)


def _piece(words: str) -> markupsafe.Markup:
    """Clean text between two links, with its outer spaces."""
    return markupsafe.escape(words)


def _finalize(value):
    """The filter of every `{{ ... }}`, before it is escaped."""
    if isinstance(value, markupsafe.Markup | int | float):
        return value
    return text.clean(value)
