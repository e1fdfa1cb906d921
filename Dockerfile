# Farebox in a small image that runs as nobody in particular:
#   docker build -t farebox .
#   docker run --stop-timeout 45 -p 8080:8080 -v "$PWD/gateway.toml:/var/lib/farebox/gateway.toml:ro" -v farebox:/var/lib/farebox \
#       -e FAREBOX_ADMIN_TOKEN -e JWT_SECRET … farebox
# In the container the gateway must listen on 0.0.0.0 to be reached. An embedded ledger stands beside
# the config, in a volume: it holds the credits. A stop may take drain_delay and shutdown_timeout,
# longer than the ten seconds that Docker waits by itself. Several gateways: docker-compose.yml,
# deploy/k8s.
#
# The base images are named by tag: their digests could not be looked up where this file was written. For
# builds that can be repeated, pin them: `docker buildx imagetools inspect debian:bookworm-slim` tells the
# digest, and `FROM debian:bookworm-slim@sha256:…` uses it.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential ca-certificates cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /farebox
COPY . .
# What `farebox --version` says; an image is built without .git:
#   docker build --build-arg FAREBOX_COMMIT=$(git rev-parse HEAD) -t farebox .
ARG FAREBOX_COMMIT=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/farebox/target \
    cargo build --locked --release --bin farebox \
    && strip --strip-debug -o /farebox-binary target/release/farebox \
    && mkdir -p /state

FROM debian:bookworm-slim
# What TLS towards the upstreams and Stripe is checked with.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /farebox-binary /usr/local/bin/farebox
COPY --from=build --chown=65532:65532 /state /var/lib/farebox
USER 65532:65532
WORKDIR /var/lib/farebox
VOLUME /var/lib/farebox
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["farebox", "healthcheck", "--config", "/var/lib/farebox/gateway.toml"]
ENTRYPOINT ["farebox"]
CMD ["serve", "--config", "/var/lib/farebox/gateway.toml"]
