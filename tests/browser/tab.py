"""A page in Chromium, as the tests of this folder use it."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

TILES = "#card-answer .tiles dd"


class Tab:
    """A page, with every complaint and every request of it."""

    def __init__(self, browser: Any, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, url: str) -> None:
        self.page.goto(url)
        self.page.wait_for_selector(f"{TILES} >> nth=0")
        self.page.wait_for_selector("#figure-accuracy .main-svg >> nth=0")

    def choose(self, name: str, value: str) -> None:
        """Set a control, and wait for the answer to what is then asked."""
        field = self.page.locator(f"#control-{name}")
        before = parse_qs(urlsplit(self.page.url).query).get(name, [""])[0]
        if before == value:
            return
        with self.page.expect_response(
            lambda answer: "/api/view" in answer.url and asks(answer.url, name, value)
        ):
            if field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
                field.press("Tab")
        self.page.wait_for_function(
            "() => !document.getElementById('status').textContent.startsWith('Predicting')"
        )

    def tiles(self) -> list[str]:
        return [str(text) for text in self.page.locator(TILES).all_text_contents()]

    def close(self) -> None:
        self.context.close()


def asks(url: str, name: str, value: str) -> bool:
    """Whether an address asks for a value."""
    return parse_qs(urlsplit(url).query).get(name, [""])[0] == value
