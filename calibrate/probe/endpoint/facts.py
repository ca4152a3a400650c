"""What a server says of itself: engine, version, settings, and the name of its model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from calibrate.probe.endpoint.http import Client, EndpointError
from llm_perf.config.names import normalise
from llm_perf.systems.families import families

Setting = str | int | float | bool | None

_LABELS = re.compile(r'(\w+)="([^"]*)"')


@dataclass
class ServerFacts:
    """What is known of a server.

    Attributes:
        models: Names that it serves.
        system: The family of ``llm-perf systems list``; None where it does not tell.
        version: Its own.
        settings: Whatever it says that bears on speed.
        pages: The pages that answered, for the record.
    """

    models: tuple[str, ...] = ()
    system: str | None = None
    version: str | None = None
    settings: dict[str, Setting] = field(default_factory=dict)
    pages: tuple[str, ...] = ()


async def server_facts(client: Client) -> ServerFacts:
    """Read the pages that engines have.

    Raises:
        EndpointError: the server does not answer at all.
    """
    root, base = client.address.root, client.address.base
    facts, pages = ServerFacts(), []
    for path, take in (
        (f"{base}/models", _models), (f"{root}/version", _version), (f"{root}/props", _props),
        (f"{root}/get_server_info", _server_info), (f"{root}/metrics", _metrics),
    ):  # fmt: skip
        try:
            found = await client.get_json(path)
        except EndpointError:
            if path == f"{base}/models":
                raise
            continue
        if found is not None:
            pages.append(path)
            take(facts, found)
    facts.pages = tuple(pages)
    return facts


def served_name(facts: ServerFacts, model: str, given: str | None) -> str | None:
    """The name under which a server serves a model; None where none of its names is one of the model's.

    Names match as everywhere, with or without an organisation or a folder; a server of one model that says no more is
    taken at its word with ``given`` only.
    """
    if given is not None:
        return given
    wanted = plain_name(model)
    matches = [name for name in facts.models if plain_name(name) == wanted]
    return matches[0] if len(matches) == 1 else next((name for name in matches if name == model), None)


def plain_name(name: str) -> str:
    """A model's name without organisation, folder and revision, as names are compared."""
    last = name.rstrip("/").rpartition("/")[2].partition("@")[0].removesuffix(".gguf")
    return normalise(last)


def family_announced(name: str) -> str | None:
    """The family whose servers call themselves so; None for none."""
    return next((one.name for one in families() if name.lower() in one.announces), None)


def _models(facts: ServerFacts, found: Any) -> None:
    data = found.get("data") if isinstance(found, dict) else None
    entries = [one for one in data or () if isinstance(one, dict) and isinstance(one.get("id"), str)]
    facts.models = tuple(one["id"] for one in entries)
    for one in entries:
        facts.system = facts.system or family_announced(str(one.get("owned_by", "")))
        if isinstance(one.get("max_model_len"), int):
            facts.settings["max_model_len"] = one["max_model_len"]


def _version(facts: ServerFacts, found: Any) -> None:
    if isinstance(found, dict) and isinstance(found.get("version"), str):
        facts.version = found["version"]


def _props(facts: ServerFacts, found: Any) -> None:
    """llama.cpp's server."""
    if not isinstance(found, dict) or "total_slots" not in found:
        return
    facts.system = family_announced("llamacpp")
    defaults = found.get("default_generation_settings")
    facts.settings |= {"total_slots": _plain_setting(found["total_slots"])}
    if isinstance(defaults, dict) and isinstance(defaults.get("n_ctx"), int):
        facts.settings["n_ctx"] = defaults["n_ctx"]
    if isinstance(found.get("build_info"), str):
        facts.version = found["build_info"]


_SERVER_INFO = (
    "tp_size", "dp_size", "pp_size", "mem_fraction_static", "chunked_prefill_size", "max_running_requests", "schedule_policy",
    "disable_radix_cache", "attention_backend", "quantization", "kv_cache_dtype",
)  # fmt: skip


def _server_info(facts: ServerFacts, found: Any) -> None:
    """SGLang's."""
    if not isinstance(found, dict):
        return
    facts.system = facts.system or family_announced("sglang")
    facts.version = facts.version or (found["version"] if isinstance(found.get("version"), str) else None)
    facts.settings |= {name: _plain_setting(found[name]) for name in _SERVER_INFO if name in found}


def _metrics(facts: ServerFacts, found: Any) -> None:
    """Prometheus text: whose it is, and the information metrics' labels."""
    if not isinstance(found, str):
        return
    for line in found.splitlines():
        name, _, rest = line.partition("{")
        family = family_announced(name.partition(":")[0].strip())
        if line.startswith("#") or family is None:
            continue
        facts.system = facts.system or family
        if name.endswith("_info"):
            facts.settings |= {
                key: _plain_setting(value) for key, value in _LABELS.findall(rest) if value != "None"
            }


def _plain_setting(value: Any) -> Setting:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)[:100]
