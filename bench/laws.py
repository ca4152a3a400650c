"""Number the laws and write their page: `python bench/laws.py`, after a law was added, renamed or taken away.

A law is a test of tests/laws, and its name a sentence. tests/laws/register.yaml gives each a number for good, with the bug
that earned it where one did; a law that is new gets the next number, one that is gone leaves a gap. docs/laws.md is written
from the register, from the tests, and from the faults of tests/laws/mutations.yaml that they find.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
LAWS = ROOT / "tests" / "laws"
REGISTER, FAULTS, PAGE = LAWS / "register.yaml", LAWS / "mutations.yaml", ROOT / "docs" / "laws.md"

_REGISTER_HEAD = """\
# Numbers of the laws, given for good: `python bench/laws.py` adds what is new. `bug` is what earned a law, where one did.
"""
_PAGE_HEAD = """\
# Laws

What must hold of every answer, whatever the model, the machine and the load. Each law is a test that draws its cases, or
counts a closed form by itself; its number stays with it. *Earned by* is the fault that it was written against, *finds* a
fault that is put into the code to see whether the law notices (`make mutations`). This page is written by
`python bench/laws.py`, and a test holds it to the tests and their register.
"""
_NAMES = {
    "gpu": "GPU",
    "gpus": "GPUs",
    "cpu": "CPU",
    "pcie": "PCIe",
    "flops": "FLOPs",
    "nvme": "NVMe",
    "deepseek": "DeepSeek",
}
"""Words of tests' names that a sentence writes otherwise."""


@dataclass(frozen=True)
class Law:
    """One law: its file, its test, and what the test says of itself."""

    file: str
    test: str
    says: str

    @property
    def statement(self) -> str:
        """The test's name as the sentence that it is."""
        words = self.test.removeprefix("test_").split("_")
        name = " ".join(_NAMES.get(word, word) for word in words)
        return name[0].upper() + name[1:]


def laws() -> dict[str, tuple[str, list[Law]]]:
    """Of each file of laws its title and its laws, in their order."""
    found = {}
    for path in sorted(LAWS.glob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        tests = (
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        )
        own = [Law(path.name, node.name, " ".join((ast.get_docstring(node) or "").split())) for node in tests]
        found[path.name] = ((ast.get_docstring(tree) or path.stem).splitlines()[0], own)
    return found


def entry_of(stated: int | Mapping[str, Any]) -> tuple[int, str]:
    """Number and bug of an entry of the register."""
    return (stated, "") if isinstance(stated, int) else (stated["law"], stated.get("bug", ""))


def numbered(register: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The register with every law of today: new ones after the highest number, none without a test."""
    last = max((entry_of(stated)[0] for file in register.values() for stated in file.values()), default=0)
    found: dict[str, dict[str, Any]] = {}
    for file, (_, own) in laws().items():
        known = register.get(file, {})
        for law in own:
            last += law.test not in known
            found.setdefault(file, {})[law.test] = known.get(law.test, last)
    return found


def page(register: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of all laws, by file."""
    return "\n".join([_PAGE_HEAD, *_lines(register)])


def _lines(register: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    finds: dict[str, list[str]] = {}
    for faults in yaml.safe_load(FAULTS.read_text("utf-8")).values():
        for fault in faults:
            for test in fault["tests"]:
                finds.setdefault(test, []).append(fault["says"])
    for file, (title, own) in laws().items():
        yield f"## {title.rstrip('.')}\n\n`tests/laws/{file}`\n"
        for law in own:
            number, bug = entry_of(register[file][law.test])
            text = f"- **LAW-{number}** {law.statement}." + (f" {law.says}" if law.says else "")
            text += f" *Earned by:* {bug}" if bug else ""
            yield text + "".join(f" *Finds:* {says}." for says in finds.get(f"laws/{file}::{law.test}", []))
        yield ""


def main() -> int:
    """Write the register and the page anew."""
    known = yaml.safe_load(REGISTER.read_text("utf-8")) if REGISTER.exists() else {}
    register = numbered(known or {})
    text = yaml.safe_dump(register, sort_keys=False, width=124, allow_unicode=True)
    REGISTER.write_text(_REGISTER_HEAD + text, "utf-8")
    PAGE.write_text(page(register), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
