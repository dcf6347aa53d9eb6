"""TIR kernels for separable and dense convolutions, as TVMScript text made from their parameters.

Activations inside a network are blocked: `(N, C/v, H, W, v)` with `v` the lanes of a vector
register, channels padded with zeros. Weights are `(O/v, K, v)`: one panel of `v` output channels
after another, K running in the order in which the kernel reads its input. Nothing here imports tvm.
"""
