"""What a real browser makes of the report: asks for nothing, shows all.

Skipped where there is no Chromium (Debian: apt-get install chromium).
"""

import pytest

from ib_keras import files
from ib_keras.audit import report
from tests.support import audit_folder
from tests.support import chromium

# Every piece of text against what is painted behind it, as WCAG 2 defines it.
CONTRASTS = """
(() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim()) continue;
    const style = getComputedStyle(element);
    const isDrawn = element.closest("svg");
    const ink = luminance(channels(isDrawn ? style.fill : style.color));
    const paper = luminance(behind(element));
    const [low, high] = [ink, paper].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), walk.currentNode.data.trim()]);
  }
  return found.sort((a, b) => a[0] - b[0]);
})()
"""


@pytest.fixture(scope="module")
def tab():
    with chromium.start() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of one audit with everything, and one that compares three."""
    root = tmp_path_factory.mktemp("browser")
    folders, clean = [], {}
    for position, label in enumerate(("upper_bound", "believable", None)):
        folder = str(root / f"audit{position}")
        content = audit_folder.write(
            folder,
            model="a_long_name_of_a_model_" * 4 if position else "mnist_vib",
            class_names=["a class with a rather long name"] * 10,
            hardness=3 * position + 2,
        )
        if label:
            audit_folder.write_findings(folder, label)
            audit_folder.write_safety(folder, has_exceptions=True)
        folders.append(folder)
        clean[folder] = content.clean_images
    one = report.write(folders[:1], str(root / "one.html"), clean_of(clean, 1))
    three = report.write(folders, str(root / "three.html"), clean)
    old = report.write(folders[2:], str(root / "old.html"))
    return {"one": one, "three": three, "old": old}


def clean_of(clean, count):
    return dict(list(clean.items())[:count])


@pytest.mark.parametrize("name", ["one", "three", "old"])
@pytest.mark.parametrize("width", [1100, 360])
def test_page_loads_nothing_and_logs_no_warning(tab, pages, name, width):
    tab.open(pages[name], width)
    assert len(tab.requests()) == 1
    assert tab.requests()[0].endswith(f"{name}.html")
    assert tab.complaints() == []
    assert tab.evaluate("document.scripts.length") == 0
    assert tab.evaluate(
        "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
    )


def test_policy_stops_what_would_run_or_call_out(tab, pages, tmp_path):
    # The control of the test above: these do show up where they are.
    source = files.read_text(pages["one"])
    path = str(tmp_path / "planted.html")
    planted = (
        "<script>document.title = 'run'</script>"
        "<img src='http://192.0.2.1/pixel.png' onerror='document.title = 1'>"
        "<iframe src='data:text/html,x'></iframe>"
        "<link rel='stylesheet' href='http://192.0.2.1/style.css'>"
        "<form action='http://192.0.2.1/'><button>x</button></form></main>"
    )
    files.write_text(path, source.replace("</main>", planted))
    tab.open(path)
    assert len(tab.complaints()) >= 4
    assert all("Content Security" in words for words in tab.complaints())
    assert tab.evaluate("document.title") == "Robustness audit of mnist_vib"


@pytest.mark.parametrize("name", ["one", "three", "old"])
def test_phone_does_not_scroll_sideways(tab, pages, name):
    tab.open(pages[name], 360)
    tab.evaluate("document.querySelectorAll('details').forEach(d=>d.open=true)")
    assert tab.evaluate("innerWidth") == 360
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    outside = tab.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => "
        "!e.closest('.scroll, svg') && e.getClientRects().length && "
        "e.getBoundingClientRect().right > 361).map(e => e.outerHTML)"
    )
    assert outside == []


@pytest.mark.parametrize("name", ["one", "three", "old"])
def test_no_column_is_cut_off_on_a_small_laptop(tab, pages, name):
    tab.open(pages[name], 1280)
    tab.evaluate("document.querySelectorAll('details').forEach(d=>d.open=true)")
    cut = tab.evaluate(
        "[...document.querySelectorAll('.scroll')].filter("
        "e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"
    )
    assert cut == []
    assert tab.evaluate("document.querySelectorAll('.scroll').length") > 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "three"])
def test_all_text_has_contrast_as_painted(tab, pages, name, scheme):
    tab.open(pages[name], scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(d=>d.open=true)")
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 200
    assert contrasts[0][0] >= 4.5, contrasts[:5]
    is_dark = tab.evaluate(
        "getComputedStyle(document.body).backgroundColor"
    ) == ("rgb(21, 23, 27)")
    assert is_dark is (scheme == "dark")


@pytest.mark.parametrize("width", [1100, 360])
def test_screen_reader_is_told_of_everything(tab, pages, width):
    tab.open(pages["one"], width)
    roles = tab.roles()
    names = {role: [n for r, n in roles if r == role] for role, _ in roles}
    assert names["RootWebArea"] == ["Robustness audit of mnist_vib"]
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert "Verdict" in names["heading"]
    assert any(n.startswith("Findings: ") for n in names["heading"])
    # Tables stay tables where a narrow page shows them as blocks.
    assert "Findings that fail or warn" in names["table"]
    assert {"Check", "Measured", "Threshold"} <= set(names["columnheader"])
    headers = [" ".join(name.split()) for name in names["rowheader"]]
    assert headers[:2] == ["fail D6", "warn D3"]
    for role in ("image", "link", "region"):
        assert all(name.strip() for name in names[role]), role
    # A sign is a picture of the word beside it, and so not read twice.
    assert not {"✕", "▲", "–"} & {n.strip() for n in names["StaticText"]}


def test_a_click_on_a_reason_leads_to_its_finding(tab, pages):
    tab.open(pages["one"])
    tab.evaluate("document.querySelector('.why a').click()")
    assert tab.evaluate(
        "document.querySelector(':target').innerText.includes("
        "document.querySelector('.why a').innerText)"
    )


def test_paper_shows_what_is_folded(tab, pages):
    tab.open(pages["one"])
    tab.send("Emulation.setEmulatedMedia", media="print")
    shown = tab.evaluate(
        "document.querySelector('.fold tbody').getBoundingClientRect().height"
    )
    assert shown > 0
    assert tab.evaluate("document.querySelector('.fold').open") is False
    assert tab.paper().startswith(b"%PDF")
    tab.send("Emulation.setEmulatedMedia", media="")
