"""One HTML file that shows views: everything is inside it, and nothing is asked of any network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

from llm_perf import __version__
from llm_perf.errors import MissingExtraError

_POLICY: Final = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'{own}; img-src data: blob:; "
    "connect-src {own_or_none}; base-uri 'none'; form-action 'none'"
)


def content_policy(served: bool) -> str:
    """The Content-Security-Policy: a file runs its own scripts and asks nobody, a served page asks its server.

    Plotly writes styles of its own into the page, so inline styles are allowed.
    """
    if served:
        return _POLICY.format(scripts="'self'", own=" 'self'", own_or_none="'self'")
    return _POLICY.format(scripts="'unsafe-inline'", own="", own_or_none="'none'")


def asset(name: str) -> str:
    """A file of the page: ``page.html``, ``explorer.css``, ``explorer.js``."""
    return resources.files("llm_perf.explore").joinpath("static", name).read_text("utf-8")


def plotly_js() -> str:
    """Plotly's JavaScript as the package ``plotly`` brings it.

    Raises:
        MissingExtraError: the extra ``explore`` is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("explore", "a page with figures") from None
    return str(get_plotlyjs())


def report_page(views: Sequence[Mapping[str, Any]], accuracy: Mapping[str, Any] | None) -> str:
    """A page of finished views, for ``llm-perf report``.

    Raises:
        MissingExtraError: Plotly is not installed.
    """
    data = {"mode": "report", "version": __version__, "views": list(views), "accuracy": accuracy}
    scripts = [
        f'<script type="application/json" id="data">{_safe(json.dumps(data, allow_nan=False))}</script>',
        f"<script>{_script(plotly_js())}</script>",
        f"<script>{asset('explorer.js')}</script>",
    ]
    return _page(f"<style>{asset('explorer.css')}</style>", scripts, served=False)


def served_page(options: Mapping[str, Any], accuracy: Mapping[str, Any] | None) -> str:
    """The page of ``llm-perf serve``, which asks its server for views. ``options`` are the names to choose from."""
    data = {"mode": "serve", "version": __version__, "options": options, "accuracy": accuracy}
    scripts = [
        f'<script type="application/json" id="data">{_safe(json.dumps(data, allow_nan=False))}</script>',
        '<script src="explorer.js" defer></script>',  # the words first: figures come when their program has
        '<script src="plotly.js" id="plotly" defer></script>',
    ]
    return _page('<link rel="stylesheet" href="explorer.css">', scripts, served=True)


def _page(style: str, scripts: Sequence[str], served: bool) -> str:
    page = asset("page.html").replace("{{policy}}", content_policy(served)).replace("{{style}}", style)
    head, tail = page.split("{{scripts}}")  # not replace(): scripts are long, and may hold anything
    return head + "\n".join(scripts) + tail


def _safe(text: str) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script(text: str) -> str:
    r"""JavaScript that can stand in a script element: in its strings, ``<\/`` is ``</``."""
    return text.replace("</script", "<\\/script")
