# Two programs, sync-server and syncctl, on a small Debian. Build: docker build -t deltasync .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches survive between builds, so an edit compiles only what it touches.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --bin sync-server --bin syncctl \
    && mkdir /out \
    && cp target/dist/sync-server target/dist/syncctl /out/

FROM debian:bookworm-slim
RUN groupadd --gid 10001 deltasync \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin deltasync \
    && install -d -o deltasync -g deltasync -m 0750 /data
COPY --from=build /out/ /usr/local/bin/
# By number: where the name is not known, as in Kubernetes, this is seen not to be root.
USER 10001:10001
# In a container loopback is nobody else. So a start needs SYNC_SERVER_TLS_CERT_FILE and
# SYNC_SERVER_TLS_KEY_FILE, or, on a network that can be trusted, SYNC_SERVER_PLAINTEXT_ANYWHERE=true.
ENV SYNC_SERVER_DATA_DIR=/data \
    SYNC_SERVER_LISTEN=0.0.0.0:7411
VOLUME /data
EXPOSE 7411
# With TLS the check below needs SYNCCTL_SERVER=https://…, SYNCCTL_CA_FILE and SYNCCTL_SERVER_NAME.
# A start reads and checks the whole store (about 1 s per 400,000 rows) before it listens.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["syncctl", "--timeout", "3s", "health"]
# SIGTERM drains: streams get Goodbye, open calls their grace of 10 s.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sync-server"]
