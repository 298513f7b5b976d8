# syntax=docker/dockerfile:1
# Build: docker build -t penstock .
# Run:   docker run --rm -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" penstock
# A container is reached from outside of it, so it listens on all of its addresses; publish only the ports you mean to.

FROM python:3.13-slim-bookworm AS base
ENV PATH=/opt/penstock/bin:$PATH \
    XDG_CACHE_HOME=/opt/penstock/cache

# The kernels are compiled here for a fixed CPU, since the image runs on other machines than the one that builds it. With
# NUMBA_CPU_FEATURES empty nothing of the building machine gets in. x86-64-v3 is Haswell, Zen and later (AVX2); on an
# older one, run with NUMBA_CPU_NAME=generic, which compiles at every start, or with PENSTOCK_TRANSPORT=grpcio.
FROM base AS base-amd64
ENV NUMBA_CPU_NAME=x86-64-v3 \
    NUMBA_CPU_FEATURES=""

# LLVM's generic 64-bit ARM, which has NEON.
FROM base AS base-arm64
ENV NUMBA_CPU_NAME=generic \
    NUMBA_CPU_FEATURES=""

# The image is one of the stages above.
# hadolint ignore=DL3006
FROM base-${TARGETARCH} AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY serving serving
COPY converters converters
RUN python -m venv /opt/penstock \
    && /opt/penstock/bin/pip install --no-cache-dir '.[sign]' 'fsspec>=2024.6' \
    && /opt/penstock/bin/python -m compileall -q /opt/penstock/lib \
    && penstock kernels

# hadolint ignore=DL3006
FROM base-${TARGETARCH}
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin penstock
# The cache of kernels comes along and belongs to root: the server reads it, also from a read-only root file system.
COPY --from=build /opt/penstock /opt/penstock
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PENSTOCK_HOST=0.0.0.0 \
    PENSTOCK_MODELS=/models \
    PENSTOCK_LOG_FORMAT=json
USER 10001
EXPOSE 8001 8002
# SIGTERM drains: requests in flight are answered before the process ends.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; port = os.environ.get('PENSTOCK_HTTP_PORT', 8002); u.urlopen(f'http://127.0.0.1:{port}/livez', timeout=2)"]
ENTRYPOINT ["penstock"]
CMD ["serve"]
