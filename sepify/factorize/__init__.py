"""Convolution kernels -> separable factors. Tensors in, tensors out: no graphs."""
