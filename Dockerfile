# syntax=docker/dockerfile:1
# The image runs `creditgate serve` with /etc/creditgate/gateway.yaml; what it builds is the Makefile's
# `image-steps`, which a test runs without any engine. It has the drivers of all sinks, and traces.

FROM python:3.11-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make image-steps PREFIX=/opt/creditgate

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="creditgate" \
      org.opencontainers.image.description="Decides, before each API request runs, whether the customer can pay for it." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home-dir /var/lib/creditgate --create-home creditgate \
    && chmod 700 /var/lib/creditgate \
    && mkdir -p /etc/creditgate
COPY --from=build /opt/creditgate /opt/creditgate
ENV PATH=/opt/creditgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CREDITGATE_CONFIG=/etc/creditgate/gateway.yaml \
    CREDITGATE_DATA_DIR=/var/lib/creditgate
USER 10001
WORKDIR /var/lib/creditgate
# Embedded ledger, store, journals: keep it on a volume that outlives the container.
VOLUME /var/lib/creditgate
EXPOSE 8080 8081 8082
STOPSIGNAL SIGTERM
# With or without TLS; if `admin.port` is another one, append it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-m", "gateway.app.alive"]
ENTRYPOINT ["creditgate"]
CMD ["serve"]
