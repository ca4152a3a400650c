"""How the page looks in a real Chromium: readable at every width, nothing moves, figures keep to their room."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.tab import TILES, Tab

SHIFTS = """window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });"""


LOOKS = {
    "does not fit": "model=llama-3.1-70b&gpu=H100-SXM-80GB&batch_size=8",
    "side by side": "model=llama-3.1-8b&gpu=l4-24gb&gpu=t4-16gb&batch_size=4",
    "divided": "model=qwen3-30b-a3b&gpu=rtx-4090-24gb&system=llama_cpp&weight_format=q4_k_m&n_cpu_moe=all",
    "training": "task=train&model=llama-3-8b&gpu=a100-sxm-80gb&num_gpus=8&framework=fsdp",
}


@pytest.mark.parametrize(
    ("width", "scheme", "look"),
    [
        (390, "light", "training"), (390, "dark", "does not fit"), (768, "light", "does not fit"), (768, "dark", "divided"),
        (1400, "light", "side by side"), (1400, "dark", "training"),
    ],
)  # fmt: skip
def test_every_width_and_scheme_is_readable(
    browser: Any, address: str, width: int, scheme: str, look: str
) -> None:
    tab = Tab(browser, width, scheme)
    tab.page.add_init_script(SHIFTS)
    tab.open(f"{address}?{LOOKS[look]}")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert (tab.page.locator("#card-answer .alarm").count() > 0) == (look == "does not fit")
    for colour, ground, least in tab.page.evaluate(CONTRASTS):
        assert _contrast(colour, ground) >= least, (colour, ground)
    assert tab.page.evaluate("window.shifted") < 0.05
    assert tab.complaints == []
    found = Axe().run(tab.page, context=AXE_CONTEXT).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    tab.close()


AXE_CONTEXT = {"include": [["html"]], "exclude": [[".plot-container"]]}
"""All but the insides of figures: each is one picture with words of its own, and has its numbers as a table."""


CONTRASTS = """() => {
  const ground = (one) => { for (; one; one = one.parentElement) {
    const found = getComputedStyle(one).backgroundColor;
    if (!/, 0\\)$/.test(found) && found !== 'transparent') return found; } return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('h1, h2, p, dt, dd, td, th, label, select, input, summary, code, footer')]
    .filter((one) => one.offsetParent && one.textContent.trim())
    .map((one) => [getComputedStyle(one).color, ground(one), 4.5]);
}"""


def _contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours (WCAG 2.1)."""
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("width", [390, 1024, 1400])
def test_legends_are_whole_and_leave_no_hole(browser: Any, address: str, width: int) -> None:
    tab = Tab(browser, width)
    tab.open(f"{address}?model=facebook/opt-175b&gpu=t4-16gb&system=zero_inference&gpu=h200-sxm-141gb")
    found = tab.page.evaluate(LEGENDS)
    assert len(found) >= 8
    for name, axis, top, bottom, end, right, edge in found:
        assert axis <= top + 1, name  # below the title of the axis
        assert top - axis < 40, name
        assert bottom <= end + 1, name
        assert right <= edge + 1, name
    tab.close()


LEGENDS = """() => [...document.querySelectorAll('.figure')].map((figure) => {
  const legend = figure.querySelector('.legend').getBoundingClientRect();
  const title = figure.querySelector('.xtitle').getBoundingClientRect();
  const all = figure.getBoundingClientRect();
  return [figure.id, title.bottom, legend.top, legend.bottom, all.bottom, legend.right, all.right];
})"""


def test_figures_follow_the_window(browser: Any, address: str) -> None:
    tab = Tab(browser, 1280)
    tab.open(f"{address}?model=opt-1.3b&gpu=T4-16GB")
    for width in (700, 390, 1400):
        tab.page.set_viewport_size({"width": width, "height": 900})
        tab.page.wait_for_function(WIDTHS)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.complaints == []
    tab.close()


WIDTHS = """() => [...document.querySelectorAll('.figure')].every((figure) =>
  Math.abs(figure.querySelector('.main-svg').getBoundingClientRect().width - figure.clientWidth) <= 1)"""


@pytest.mark.parametrize("width", [390, 768, 1400])
def test_nothing_moves_while_the_page_comes(browser: Any, address: str, width: int) -> None:
    """Web Vitals call up to 0.1 good."""
    tab = Tab(browser, width)
    tab.page.add_init_script(SHIFTS)
    tab.open(address)
    assert tab.page.evaluate("window.shifted") < 0.05
    tab.close()


@pytest.mark.parametrize("width", [390, 768, 1400])
def test_the_words_do_not_wait_for_the_program_that_draws(browser: Any, address: str, width: int) -> None:
    """However late it comes, figures have had their room."""
    tab = Tab(browser, width)
    held: list[Any] = []
    tab.page.add_init_script(SHIFTS)
    tab.page.route("**/plotly.js", lambda route: held.append(route))
    tab.page.goto(f"{address}?{LOOKS['does not fit']}", wait_until="commit")
    tab.page.wait_for_selector(f"{TILES} >> nth=0")
    assert tab.page.locator(".main-svg").count() == 0
    held[0].continue_()
    tab.page.wait_for_selector("#figure-accuracy .main-svg >> nth=0")
    assert tab.page.evaluate("window.shifted") < 0.01
    assert tab.complaints == []
    tab.close()


def test_on_a_phone_the_answer_stands_before_the_controls(browser: Any, address: str) -> None:
    """In the document as well, so that the keyboard and a reader's voice go the same way; a link leads to the controls."""
    tab = Tab(browser, 390)
    tab.open(address)
    before = "document.getElementById('result').compareDocumentPosition(document.getElementById('question'))"
    assert tab.page.evaluate(before) == 4  # follows
    assert tab.page.locator("#card-answer .lines dd").first.bounding_box()["y"] < 900
    tab.page.locator("#jump").click()
    assert tab.page.locator("#question").bounding_box()["y"] < 900
    tab.page.set_viewport_size({"width": 1280, "height": 900})
    tab.page.wait_for_function(f"() => {before} === 2")  # precedes
    tab.close()
