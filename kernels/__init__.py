"""Backends for accelerators: CuPy and JAX. Nothing is imported before it is asked for."""

if __name__ != "gpu_margin.kernels":
    raise ImportError("import gpu_margin.kernels, not the folder kernels")
