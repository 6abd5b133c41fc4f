# gpu-margin on an NVIDIA GPU: CUDA comes as wheels (NVRTC compiles the kernels at first use), so
# that the image needs no CUDA base; the host gives the driver through the NVIDIA container runtime.
# The README has the commands ("In a container"), that of the benchmark on a rented GPU among them.

FROM python:3.12-slim AS wheel
WORKDIR /tmp/build
COPY . /tmp/build
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY constraints.txt /wheels/constraints.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --constraint /wheels/constraints.txt \
        "gpu-margin[cuda,fast,demo,bench,serve,kafka,postgres] @ file://$(ls /wheels/gpu_margin-*.whl)" \
    && rm -rf /wheels \
    && useradd --create-home --uid 1000 margin
USER 1000
WORKDIR /data
ENV XLA_PYTHON_CLIENT_PREALLOCATE=false
ENTRYPOINT ["gpu-margin"]
CMD ["bench", "--out", "/data"]
