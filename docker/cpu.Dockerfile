# gpu-margin on a CPU: NumPy and Numba backends, the demo exchange, and the risk server.
# The README has the commands ("In a container").

FROM python:3.12-slim AS wheel
WORKDIR /tmp/build
COPY . /tmp/build
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY constraints.txt /wheels/constraints.txt
COPY --from=wheel /wheels /wheels
# The wheel and nothing of the source: what runs is what was tested.
RUN python -m pip install --no-cache-dir --constraint /wheels/constraints.txt \
        "gpu-margin[fast,demo,serve,kafka,postgres] @ file://$(ls /wheels/gpu_margin-*.whl)" \
    && rm -rf /wheels \
    && useradd --create-home --uid 1000 margin
# Numba and report caches go to the user's home; data is mounted.
USER 1000
WORKDIR /data
ENTRYPOINT ["gpu-margin"]
CMD ["--help"]
