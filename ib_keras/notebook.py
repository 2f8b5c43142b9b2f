"""Results as a notebook shows them; every text is escaped here, once."""

import html
from collections.abc import Iterable


def table(
    title: str, rows: Iterable[tuple[str, object]], note: str = ""
) -> str:
    """A small table of names and values.

    Args:
        title: Above it.
        rows: Names and values; any texts.
        note: Below it.

    Returns:
        HTML.
    """
    cells = "".join(
        f"<tr><th style='text-align:left'>{_text(name)}</th>"
        f"<td style='text-align:left'>{_text(value)}</td></tr>"
        for name, value in rows
    )
    below = f"<p>{_text(note)}</p>" if note else ""
    return (
        f"<div><p><b>{_text(title)}</b></p>"
        f"<table><tbody>{cells}</tbody></table>{below}</div>"
    )


def frame(page: str, height: int = 720) -> str:
    """A whole page inside of another one, without rights.

    Args:
        page: HTML of the page.
        height: Of the frame, in pixels.

    Returns:
        HTML.
    """
    return (
        f'<iframe srcdoc="{_text(page)}" sandbox="" width="100%" '
        f'height="{int(height)}" style="border:0"></iframe>'
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)
