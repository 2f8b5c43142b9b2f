"""A report read back: its tags, its words, and what every page must keep to."""

import collections
import html.parser
import re

from ib_keras import files
from ib_keras.audit import report

CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
INLINE = {"strong", "span", "wbr", "code", "a"}
VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}
# The only addresses that a page may lead to: those of findings' sources.
SOURCES = ("https://arxiv.org/", "https://doi.org/", "https://github.com/")


class Page(html.parser.HTMLParser):
    """A parsed page: its tags, its visible text and its table rows."""

    def __init__(self, source: str):
        super().__init__()
        self.source = source
        self.tags = []
        self.rows = []
        self.words = []
        self.open = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in INLINE:
            self.words.append(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def close(self):
        super().close()
        assert not self.open, f"never closed: {self.open}"
        self.words = " ".join("".join(self.words).split())
        self.rows = [
            [" ".join(cell.split()) for cell in row] for row in self.rows
        ]

    def named(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def write_page(folders, tmp_path, clean_images=None) -> Page:
    path = report.write(
        [str(folder) for folder in folders],
        str(tmp_path / "report.html"),
        clean_images,
    )
    return Page(files.read_text(path))


def check_self_contained(page: Page) -> None:
    assert not page.named("script")
    for tag, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                is_source = tag == "a" and value.startswith(SOURCES)
                assert is_source or value.startswith(("data:", "#")), value
    assert not re.search(r"@import|url\((?!#)", page.source)


def check_accessible(page: Page) -> None:
    assert page.named("html") == [{"lang": "en"}]
    title = re.search("<title>(.*?)</title>", page.source).group(1)
    assert title.strip()
    assert len(page.named("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.match(r"h\d$", tag)]
    assert all(
        after <= before + 1
        for before, after in zip(levels, levels[1:], strict=False)
    )
    for image in page.named("img"):
        assert image["alt"].strip()
    for header in page.named("th"):
        assert header["scope"] in ("col", "row", "rowgroup")
    for chart in page.named("svg"):
        if chart.get("aria-hidden") != "true":  # A swatch beside its words.
            assert chart["role"] == "img" and chart["aria-label"].strip()
    for region in page.named("div"):
        if region.get("role") == "region":
            assert region["aria-label"].strip() and region["tabindex"] == "0"
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert not [id for id, n in collections.Counter(ids).items() if n > 1]
    targets = [attrs.get("href", "") for attrs in page.named("a")]
    assert {t[1:] for t in targets if t.startswith("#")} <= set(ids)
    viewport = [m for m in page.named("meta") if m.get("name") == "viewport"]
    assert "width=device-width" in viewport[0]["content"]
