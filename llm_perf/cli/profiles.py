"""``llm-perf profiles list|show|diff``."""

from __future__ import annotations

import json
from typing import Any

import click

from llm_perf.config.loading import known_names
from llm_perf.config.profiles import Profile, own_profiles, user_folder
from llm_perf.errors import SpecError
from llm_perf.report import profile_text
from llm_perf.systems.profiles import checked_profile


@click.group("profiles")
def profiles() -> None:
    """List calibrated profiles, show one, compare two."""


@profiles.command("list", help="List the bundled profiles and your own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(as_json: bool) -> None:
    """One line per profile; a file that cannot be read is said so in its line."""
    rows = []
    for name, where in _all().items():
        try:
            rows.append(
                profile_text.summary(checked_profile(where if where != "bundled" else name))
                | {"name": name, "where": where}
            )
        except SpecError as error:
            rows.append({"name": name, "where": where, "error": str(error)})
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "profiles": rows}, allow_nan=False))
    elif rows:
        click.echo("\n".join(profile_text.list_lines(rows)))
    else:
        click.echo(f"no profile is bundled, and there is none in {user_folder()}")


@profiles.command("show", help="Show everything about a profile: a name or a file.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, as_json: bool) -> None:
    """What it sets, what it covers, how far it was off."""
    profile = _given(name)
    if as_json:
        click.echo(json.dumps({"schema_version": 1} | _plain(profile), allow_nan=False))
    else:
        click.echo("\n".join(profile_text.show_lines(profile)))


@profiles.command("diff", help="Compare two profiles value by value: names or files.")
@click.argument("one")
@click.argument("other")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(one: str, other: str, as_json: bool) -> None:
    """Values that differ, or that only one of them sets."""
    left, right = _given(one), _given(other)
    differences = profile_text.differences(left, right)
    if as_json:
        rows = [{"name": name, "one": a, "other": b} for name, a, b in differences]
        click.echo(
            json.dumps(
                {"schema_version": 1, "one": left.name, "other": right.name, "differences": rows},
                allow_nan=False,
            )
        )
    else:
        click.echo("\n".join(profile_text.diff_lines(left, right, differences)))


def _all() -> dict[str, str]:
    """Names with where they are; a user's own profile goes before the bundled one of its name."""
    bundled = dict.fromkeys(known_names("profile"), "bundled")
    return bundled | {name: str(path) for name, path in own_profiles().items()}


def _given(name: str) -> Profile:
    profile = checked_profile(name)
    if profile.name == "none":
        raise SpecError("'none' is no profile: it says that none is applied")
    return profile


def _plain(profile: Profile) -> dict[str, Any]:
    return profile.model_dump(mode="json")
