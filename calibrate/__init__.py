"""The real run: generation under DeepSpeed ZeRO-Inference, microbenchmarks, and the fit of a profile to them.

Importing this package needs the base installation only; torch, deepspeed and transformers (the extra
``calibrate``) are loaded by the functions that use them.
"""
