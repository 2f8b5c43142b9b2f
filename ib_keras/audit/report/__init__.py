"""The report: one HTML page that shows what one audit, or several, found.

    from ib_keras.audit import report
    report.write(["audits/vib"], "audits/vib/report.html")
    report.write(["audits/vib", "audits/ceb"], "compare.html")

The page is self-contained: no script, no network (its content security policy
forbids both), one style sheet, charts as inline SVG, pictures as PNG data. It
supports light and dark schemes, print, phones and screen readers. Equal folders
give equal bytes.

For one audit it has, in this order: the verdict and what decided it; the
numbers with their intervals; accuracy against restarts and against epsilon;
the stages with their budget; the findings, those that fail first; what noise
hides; examples before and after; loss landscapes; accuracy by class; the model
and its safety check; the protocol, and how to run and to verify it again.
What an audit lacks is left out. For several audits a comparison comes first,
with a paired test of each model against a baseline.

The files of this package, in the order of the work:

* `load`: an audit folder into a frozen, checked `Audit` (with `findings` and
  `audit.summary`).
* `names`, `baselines`, `pairs`: which models these are, and how they compare.
* `evidence` (with `links`), `classes`: the findings and tables of each.
* `charts` (with `svg`, `labels`), `pictures`, `examples` (with `outcomes`),
  `audit.landscape.drawing`: what is drawn.
* `text`: formatted numbers and cleaned foreign text.
* `page`: the parts into the templates; a section is a file of `templates/`.

Texts in an audit come from foreign models. They are cut, stripped of invisible
characters, and escaped once; see `page`.
"""

import os
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from ib_keras import errors
from ib_keras import files
from ib_keras import lazy
from ib_keras.audit.report import load


def write(
    folders: Sequence[str],
    path: str,
    clean_images: Mapping[str, np.ndarray] | None = None,
    baseline: str | None = None,
) -> str:
    """Writes the page of one or several audits.

    Args:
        folders: Audit folders, local or remote, in the order to show them.
        path: Where the page shall be; replaced if it is there.
        clean_images: Folder, as in `folders` -> float images
            `[num_examples, height, width, channels]` in [0, 1] before the
            attack, in the order of the audit's examples. Audits that have
            none show the adversarial images alone.
        baseline: The audit folder, name or path of the model that the others
            are compared with; None for the deterministic baseline, see
            `baselines`.

    Returns:
        `path`.

    Raises:
        UserError: If a folder is not a whole audit, clean images do not
            belong to theirs, no audit is of the baseline, or the page cannot
            be written.
    """
    if not folders or isinstance(folders, str):
        raise errors.UserError(
            "There is no audit to report",
            received=repr(folders),
            expected="a list of one or more audit folders",
            fix="Name the --workdir of each audit.",
        )
    # Imports jinja2 and matplotlib, which reading an audit does not need.
    from ib_keras.audit.report import page

    audits = [load.load(os.fspath(folder)) for folder in folders]
    clean = _check_clean_images(clean_images or {}, audits)
    with lazy.no_collections():
        html = page.render(audits, clean, baseline)
    if parent := os.path.dirname(path):
        files.make_folder(parent)
    files.write_text(path, html)
    return path


def write_page(
    folders: Sequence[str],
    path: str | None = None,
    baseline: str | None = None,
) -> str:
    """As `write`, with clean images of those whose data are available.

    Args:
        folders: As of `write`.
        path: The file; report.html in the first folder by default.
        baseline: As of `write`.

    Returns:
        Its path.

    Raises:
        UserError: As by `write`.
    """
    # Here, for this package has a module of the same name.
    from ib_keras.audit import examples
    from ib_keras.audit.report import baselines

    audits = [load.load(folder, has_examples=False) for folder in folders]
    if baseline is not None:
        baselines.choose(audits, baseline)
    lazy.tensorflow()  # Clean images and landscapes need no Keras.
    clean = {}
    for audit in audits:
        images = examples.of_folder(audit.folder, audit.model)
        if images is not None:
            clean[audit.folder] = images
    path = path or files.join(folders[0], "report.html")
    return write(list(folders), path, clean, baseline)


def _check_clean_images(
    clean_images: Mapping[str, np.ndarray], audits: Sequence[load.Audit]
) -> dict[str, np.ndarray]:
    """Checks that clean images belong to an audit and fit its examples."""
    by_folder = {audit.folder: audit for audit in audits}
    checked = {}
    for folder, images in clean_images.items():
        folder = os.fspath(folder)
        if folder not in by_folder:
            raise errors.unknown_name(
                "audit folder",
                folder,
                by_folder,
                "Key the clean images by the folders as they are given.",
            )
        checked[folder] = load.check_clean_images(by_folder[folder], images)
    return checked
