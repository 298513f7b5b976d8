# syntax=docker/dockerfile:1
# Build: docker build -t penstock .
# Run:   docker run --rm -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" penstock
# A container is reached from outside of it, so it listens on all of its addresses; publish only the ports you mean to.

FROM python:3.13-slim-bookworm AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY serving serving
COPY converters converters
RUN python -m venv /opt/penstock \
    && /opt/penstock/bin/pip install --no-cache-dir . \
    && /opt/penstock/bin/python -m compileall -q /opt/penstock/lib

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin penstock
COPY --from=build /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONUNBUFFERED=1 \
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
