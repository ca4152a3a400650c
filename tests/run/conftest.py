"""The real run at tiny scale. Everything here needs the extra ``calibrate`` and says so where it is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibrate.probe.extras import require_extra
from llm_perf.errors import MissingExtraError

# Two workers of pytest share two cores. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
ENTRY = "from llm_perf.cli.main import main; main()"

FAMILIES = {
    "opt": {
        "model_type": "opt", "vocab_size": 512, "hidden_size": 128, "word_embed_proj_dim": 128, "ffn_dim": 512,
        "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 256,
    },
    "bloom": {"model_type": "bloom", "vocab_size": 512, "hidden_size": 128, "n_layer": 3, "n_head": 4},
    "llama": {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": False,
    },
    "mixtral": {
        "model_type": "mixtral", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
        "max_position_embeddings": 256, "tie_word_embeddings": False, "sliding_window": None,
    },
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.run)


@pytest.fixture(scope="session", autouse=True)
def _packages() -> None:
    try:
        require_extra("tests/run")
    except MissingExtraError as error:
        pytest.fail(str(error))


@pytest.fixture(scope="session")
def offload_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests of one worker: each dummy checkpoint is written once."""
    return tmp_path_factory.mktemp("offload")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with the config.json of a tiny model of each family."""
    root = tmp_path_factory.mktemp("models")
    for family, config in FAMILIES.items():
        (root / family).mkdir()
        (root / family / "config.json").write_text(json.dumps(config))
    return {family: str(root / family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def _own_corner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs and run files go to the test's folder; tests that run side by side do not lock each other out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_PERF_RUN_LOCK", str(tmp_path / "lock"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(offload_dir: Path) -> Callable[..., dict[str, Any]]:
    """Measure in this process, with small settings of which some are changed."""
    from calibrate.run.generation import measure
    from calibrate.run.settings import RunSettings

    def measured(**changes: Any) -> dict[str, Any]:
        settings = {
            "model_name": "tiny-opt", "dummy": True, "batch_size": 2, "prompt_len": 12, "gen_len": 5, "loops": 1,
            "warmup": 0, "dtype": "fp32", "device": "cpu", "offload_dir": str(offload_dir),
        }  # fmt: skip
        result = measure(RunSettings(**(settings | changes)))
        assert result is not None
        return result

    return measured


@pytest.fixture
def cli(offload_dir: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``llm-perf`` in a process of its own, which nobody watches on a terminal."""

    def called(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | environment,
        )

    return called


def command(*arguments: str) -> list[str]:
    """The command line of ``llm-perf``, whether it is installed as a script or not."""
    return [sys.executable, "-c", ENTRY, *arguments]
