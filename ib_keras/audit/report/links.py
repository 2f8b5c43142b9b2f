"""Links from the sources that findings name to where they can be read.

The text of a source is untrusted. So an address is never copied from it: it is
made from an arXiv number or a DOI, or is at one of a few known hosts.
"""

import re
from typing import NamedTuple

from ib_keras.audit.report import text

_HOSTS = (
    "arxiv.org",
    "doi.org",
    "github.com",
    "openreview.net",
    "proceedings.mlr.press",
    "robustbench.github.io",
)
_PATTERN = re.compile(
    r"arXiv[:\s]\s*(?P<arxiv>\d{4}\.\d{4,5})(?!\d)"
    r"|doi[:\s]\s*(?P<doi>10\.\d{4,9}/[\w./()-]*\w)"
    rf"|https://(?:{'|'.join(map(re.escape, _HOSTS))})/[\w./-]*[\w/]",
    re.ASCII | re.IGNORECASE,
)
# Words that name a source -> its address; the first that fits is taken.
_NAMED = {
    ("Athalye", "2018"): "https://arxiv.org/abs/1802.00420",
    ("Carlini", "2019"): "https://arxiv.org/abs/1902.06705",
    ("Croce", "2020"): "https://arxiv.org/abs/2003.01690",
    ("Korshunova", "2021"): "https://arxiv.org/abs/2107.05712",
    ("Madry", "2018"): "https://arxiv.org/abs/1706.06083",
    ("Pintor", "2022"): "https://arxiv.org/abs/2106.09947",
    ("Tramer", "2020"): "https://arxiv.org/abs/2002.08347",
    ("Tramèr", "2020"): "https://arxiv.org/abs/2002.08347",
    ("Uesato", "2018"): "https://arxiv.org/abs/1802.05666",
    ("Zhang", "2019", "TRADES"): "https://arxiv.org/abs/1901.08573",
    ("Zimmermann", "2022"): "https://arxiv.org/abs/2206.13991",
    ("IoAF",): "https://arxiv.org/abs/2106.09947",
    ("AutoAttack",): "https://github.com/fra31/auto-attack",
    ("ART",): "https://github.com/Trusted-AI/adversarial-robustness-toolbox",
}
_MAX_LENGTH = 300


class Part(NamedTuple):
    """A piece of text, and its link, if any."""

    words: str
    address: str | None


def split(source: str) -> tuple[Part, ...]:
    """Splits the text of a source into links and the text between them.

    Args:
        source: One or several, such as "Carlini et al. 2019, section 4.8;
            doi:10.1145/1".

    Returns:
        The parts, in order; joined they are the text, cleaned and cut.
    """
    parts = []
    for piece in re.split("(; )", text.clean(source, _MAX_LENGTH)):
        parts += _by_address(piece) or [Part(piece, _by_name(piece))]
    return tuple(part for part in parts if part.words)


def _by_address(piece: str) -> list[Part]:
    """The addresses in a source; empty where it holds none."""
    parts, end = [], 0
    for match in _PATTERN.finditer(piece):
        parts.append(Part(piece[end : match.start()], None))
        parts.append(Part(match.group(), _address(match)))
        end = match.end()
    return [*parts, Part(piece[end:], None)] if parts else []


def _address(match: re.Match) -> str:
    if match["arxiv"]:
        return f"https://arxiv.org/abs/{match['arxiv']}"
    if match["doi"]:
        return f"https://doi.org/{match['doi']}"
    return match.group()


def _by_name(piece: str) -> str | None:
    named = set(re.findall(r"\w+", piece))
    for words, address in _NAMED.items():
        if named.issuperset(words):
            return address
    return None
