# The trainer, the service and the playground, as targets of one file:
#   docker build --target service --tag nestling-service .
#   docker build --target trainer --tag nestling-trainer .
#   docker build --target playground --tag nestling-playground .
# CPU wheels of PyTorch by default; `--build-arg TORCH_INDEX=` takes PyPI's, which are for CUDA.
# For linux/amd64 and linux/arm64: `docker buildx build --platform linux/arm64 …`, or on such a machine.
# No compiler is in an image for CPUs: kernels are compiled for it. On a GPU Triton and PyTorch's compiler
# need one at run time, so that the images for CUDA have gcc. docs/operations.md says sizes.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm


# What both need and seldom changes: one layer that both images share.
FROM ${PYTHON_IMAGE} AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
COPY constraints.txt /build/
RUN /opt/venv/bin/pip install --no-compile --constraint /build/constraints.txt \
        ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} numpy safetensors tokenizers torch \
    # Headers and test programs, which only a build against PyTorch would need.
    && rm -rf /opt/venv/lib/python3*/site-packages/torch/include \
        /opt/venv/lib/python3*/site-packages/torch/test \
        /opt/venv/lib/python3*/site-packages/torch/bin/*test*


# The program as a wheel, with its native kernels; compiler and setuptools stay here.
FROM packages AS wheel
# Not pinned: Debian keeps one version of a stable release, and none of it is in what runs.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++
WORKDIR /build
COPY pyproject.toml README.md LICENSE /build/
COPY nestling /build/nestling
COPY lm /build/lm
COPY trainer /build/trainer
COPY service /build/service
COPY playground /build/playground
RUN /opt/venv/bin/python -m service.models.kernels.native --ship \
    && /opt/venv/bin/pip wheel --no-deps --wheel-dir /wheels /build


FROM ${PYTHON_IMAGE} AS runtime
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3008
RUN if [ -z "${TORCH_INDEX}" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore HOME=/tmp
COPY --from=packages /opt/venv /opt/venv
# Trainer and service are two users; the volume belongs to the one that writes, whoever mounts it
# first.
RUN groupadd --gid 10001 nestling \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp trainer \
    && useradd --uid 10002 --gid 10001 --no-create-home --home-dir /tmp service \
    && install -d -o trainer -g nestling /models \
    # What is compiled and measured on a GPU, where a volume keeps it (compose.gpu.yaml).
    && install -d -m 2775 -g nestling /cache
WORKDIR /tmp
STOPSIGNAL SIGTERM
LABEL org.opencontainers.image.title="nestling" \
      org.opencontainers.image.description="Train a small language model and serve it while it learns."


FROM runtime AS trainer
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,from=wheel,source=/build,target=/build \
    pip install --constraint /build/constraints.txt "$(ls /wheels/*.whl)[trainer,corpus]"
USER 10001:10001
VOLUME /models
EXPOSE 9100
ENTRYPOINT ["python", "-m", "trainer"]
CMD ["--volume=/models", "--recipe=tiny", "--metrics-host=0.0.0.0", "--metrics-port=9100"]


# A client of the service: it needs no PyTorch, so it does not build on the others.
FROM ${PYTHON_IMAGE} AS playground
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,from=wheel,source=/build,target=/build \
    python -m venv /opt/venv \
    && pip install --no-compile --constraint /build/constraints.txt gradio httpx \
    && pip install --no-deps /wheels/*.whl
WORKDIR /tmp
USER 10003:10003
EXPOSE 7860
# Ctrl-C, which Python hears as process 1, too.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/', timeout=4)"]
LABEL org.opencontainers.image.title="nestling-playground" \
      org.opencontainers.image.description="A page to prompt a model and watch it learn."
ENTRYPOINT ["python", "-m", "playground"]
CMD ["--service=http://service:8000", "--host=0.0.0.0"]


FROM runtime AS service
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,from=wheel,source=/build,target=/build \
    pip install --constraint /build/constraints.txt "$(ls /wheels/*.whl)[service,traces]"
ENV NESTLING_HOST=0.0.0.0 NESTLING_PORT=8000 NESTLING_VOLUME=/models NESTLING_LOG_FORMAT=json
USER 10002:10001
VOLUME /models
EXPOSE 8000
# Alive, not ready: a service whose volume is still empty is healthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "service"]
