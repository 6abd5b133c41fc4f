"""Backends for the host's processor: NumPy, the reference."""

if __name__ != "gpu_margin.cpu_fallback":
    raise ImportError("import gpu_margin.cpu_fallback, not the folder cpu_fallback")
