# %% [markdown]
# # The cheapest GPUs for a model under a target
# `plan` searches GPUs, how many, how the model is divided, number formats and batches.

# %%
from llm_perf.search.plan import PlanQuestion, plan

question = PlanQuestion(
    model="llama-2-70b",
    target="tpot<50ms, ttft<1s",
    objective="cost",
    quant_bits=(16, 8, 4),
    gpus=("a100-sxm-80gb", "h100-sxm-80gb", "h200", "l40s"),
)
answer = plan(question)
for candidate in answer.best:
    dollars = candidate.measures["cost_per_million_tokens"]
    print(
        f"{candidate.num_gpus} x {candidate.inputs.gpu}, batch {candidate.inputs.batch_size}: ${dollars:.2f}/M tokens"
    )
    print(f"  the batch ends at {candidate.stops}")

# %% [markdown]
# The front: how much a faster token costs.

# %%
for candidate in answer.front[:: max(len(answer.front) // 6, 1)]:
    tpot, dollars = candidate.measures["latency_per_token_s"], candidate.measures["cost_per_million_tokens"]
    print(
        f"{tpot * 1e3:6.1f} ms per token: ${dollars:8.2f}/M tokens on {candidate.num_gpus} x {candidate.inputs.gpu}"
    )
