"""The training step for one CUDA device in bf16, by hand-fused kernels in one CUDA graph.

Nothing here is compiled by a graph compiler: a handful of Triton kernels fuse what lies between
the matrix products, so a run is ready in seconds and its step is near the device's floor. The
mathematics is that of `transformer` and `optimizer`; tests on a GPU hold the two against each
other. Weights are bf16 with fp32 masters, moments in fp32, gradients in bf16.
"""
