# %% [markdown]
# # Can OPT-175B run on one T4?
# The weights take 325 GiB, the GPU has 16. Which system streams them, from where, and how long does a token take?

# %%
import llm_perf

zero = llm_perf.predict("opt-175b", "t4", ds_zero=3)
zero  # in a notebook: the whole report

# %%
print(f"ZeRO-Inference, batch 1: {zero.total_latency_s / 60:.0f} minutes for 32 tokens")
print(f"  weights on NVMe: {float(zero.result.placement.weights.nvme):.0%}")
print(f"  decode waits for: {zero.result.decode.bottleneck}")

# %% [markdown]
# Streaming costs the same for one sequence as for many: what fits beside the buffers is nearly free.

# %%
table = llm_perf.sweep(model="opt-175b", gpu="t4", ds_zero=3, quant_bits=[None, 4], batch_size=range(1, 17))
for bits in (None, 4):
    rows = (table["quant_bits"] == bits) & table["feasible"]
    best = table["throughput_tokens_per_s"][rows].argmax()
    print(
        f"{bits or 16:2} bit: batch {table['batch_size'][rows][best]}, "
        f"{table['throughput_tokens_per_s'][rows][best]:.3f} token/s"
    )

# %% [markdown]
# And what would other GPUs change? Several that hold it, beside one that streams.

# %%
for gpu, more in (("h200", {"ds_zero": 3}), ("h200", {"tp_size": 4}), ("a100-sxm-80gb", {"tp_size": 8})):
    found = llm_perf.predict("opt-175b", gpu, **more)
    print(f"{gpu:14} {more}: {found.throughput_tokens_per_s:8.3f} token/s, fits: {found.feasible}")
