# %% [markdown]
# # Where a longer context costs a batch
# One sweep, then a table of the largest batch that fits and what it brings, by context length.

# %%
import numpy as np

import llm_perf

table = llm_perf.sweep(
    model="llama-3-8b",
    gpu=["l4", "a100-sxm-80gb"],
    kv_bits=[16, 8],
    batch_size=range(1, 257),
    prompt_len=[512, 2048, 7168],
    gen_len=256,
)
table  # in a notebook: what fits, what does not and why, and the best

# %%
for gpu in ("l4", "a100-sxm-80gb"):
    for bits in (16, 8):
        for prompt in (512, 2048, 7168):
            rows = np.flatnonzero(
                (table["gpu"] == gpu)
                & (table["kv_bits"] == bits)
                & (table["prompt_len"] == prompt)
                & table["feasible"]
            )
            if not len(rows):
                print(f"{gpu}, {bits}-bit cache, prompt {prompt}: does not fit")
                continue
            last = rows[-1]
            print(
                f"{gpu}, {bits}-bit cache, prompt {prompt}: batch {table['batch_size'][last]}, "
                f"{table['throughput_tokens_per_s'][last]:.0f} token/s, "
                f"{table['latency_per_token_s'][last] * 1e3:.1f} ms each"
            )
