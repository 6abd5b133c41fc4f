# gpu-margin on an NVIDIA GPU: CUDA comes as wheels (NVRTC compiles the kernels at first use), so
# that the image needs no CUDA base; the host gives the driver through the NVIDIA container runtime.
#
#   docker build --file docker/cuda.Dockerfile --tag gpu-margin:cuda .
#
# The benchmark of a rented GPU, its JSON and plot brought home in ./results:
#
#   mkdir -p results && docker run --rm --gpus all --user "$(id -u)" --env HOME=/tmp \
#       --volume "$PWD/results:/data" gpu-margin:cuda bench --size laptop,desk,exchange \
#       --precision float64,mixed,float32 --out /data

FROM python:3.12-slim AS wheel
WORKDIR /tmp/build
COPY . /tmp/build
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY constraints.txt /wheels/constraints.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --constraint /wheels/constraints.txt \
        "gpu-margin[cuda,fast,demo,bench] @ file://$(ls /wheels/gpu_margin-*.whl)" \
    && rm -rf /wheels \
    && useradd --create-home --uid 1000 margin
USER 1000
WORKDIR /data
ENV XLA_PYTHON_CLIENT_PREALLOCATE=false
ENTRYPOINT ["gpu-margin"]
CMD ["bench", "--out", "/data"]
