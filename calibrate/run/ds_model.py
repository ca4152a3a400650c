"""The model under ZeRO stage 3, ready to generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibrate.run.weights import build_in_place
from llm_perf.errors import EnvironmentFailure, first_line


class ZeroModel:
    """A model under ZeRO-3 and what has to live as long as it does.

    Attributes:
        module: The model, in eval mode.
    """

    def __init__(self, engine: Any, hf_ds_config: Any) -> None:
        self.module = engine.module
        self._engine = engine
        # transformers holds only a weak reference to it and needs it while the model generates.
        self._hf_ds_config = hf_ds_config

    def close(self) -> None:
        """Let go of the engine and undo what ZeRO-3 changed in torch and transformers for the whole process."""
        import torch
        from deepspeed.runtime.zero.partition_parameters import InsertPostInitMethodToModuleSubClasses
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        self._engine.destroy()
        unset_hf_deepspeed_config()
        self.module = self._engine = self._hf_ds_config = None
        linear = getattr(InsertPostInitMethodToModuleSubClasses, "linear_bk", None)
        if linear is not None:
            torch.nn.functional.linear = linear


def get_ds_model(
    config: Any, weights: Path | str | None, dtype: Any, ds_config: dict[str, Any], seed: int = 0
) -> ZeroModel:
    """Build a model under ZeRO-3.

    Args:
        config: The transformers config.
        weights: Folder or hub id of a checkpoint; None puts random weights straight into place.
        dtype: The torch dtype.
        ds_config: DeepSpeed's configuration, from ``get_ds_config``.
        seed: Of random weights.

    Raises:
        EnvironmentFailure: the checkpoint cannot be had.
    """
    import deepspeed
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    hf_ds_config = HfDeepSpeedConfig(ds_config)
    if weights is None:
        model = build_in_place(config, dtype, ds_config, seed)
    else:
        try:
            model = AutoModelForCausalLM.from_pretrained(str(weights), dtype=dtype)
        except OSError as error:
            raise EnvironmentFailure(no_weights(weights, error)) from None
    engine = deepspeed.initialize(model=model.eval(), config_params=ds_config)[0]
    engine.module.eval()
    return ZeroModel(engine, hf_ds_config)


def no_weights(weights: Path | str, error: OSError) -> str:
    """What to say where a checkpoint cannot be loaded."""
    first = first_line(error)
    return f"no weights of {weights} could be loaded ({first}); pass --dummy for random ones"
