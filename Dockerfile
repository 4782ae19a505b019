# The server in an image: `make image`, or `docker build --tag switchyard .`; docs/operating.md says how it is run.
#
#   --target loadtest            the load program instead
#   --build-arg RUN_IMAGE=…      another base with the C library of Debian 12 or newer; nothing is run in it

ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUN_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${BUILD_IMAGE} AS sources
WORKDIR /src
COPY . .
# Backtraces keep the names of functions, and not their lines.
ENV CARGO_PROFILE_RELEASE_DEBUG=false
RUN mkdir -p /out/store

FROM sources AS build-server
RUN cargo build --release --locked --package switchyard \
    && cp target/release/switchyard /out/

# After the server, whose dependencies it shares: whoever wants the one has built the other.
FROM build-server AS build-loadtest
RUN cargo build --release --locked --package switchyard-loadtest \
    && cp target/release/switchyard-loadtest /out/

FROM ${RUN_IMAGE} AS loadtest
COPY --from=build-loadtest /out/switchyard-loadtest /usr/local/bin/
USER 10001:10001
ENTRYPOINT ["switchyard-loadtest"]
CMD ["--help"]

# The last stage is the one that is built if none is named.
FROM ${RUN_IMAGE} AS server
COPY --from=build-server /out/switchyard /usr/local/bin/
COPY --from=build-server --chown=10001:10001 /out/store /var/lib/switchyard
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/switchyard/
LABEL org.opencontainers.image.title="Switchyard" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# Development mode listens on loopback, which nobody outside of a container can reach.
ENV SWITCHYARD__MODE=production
# HTTP and WebSocket; ICE-TCP; WebRTC, one UDP port for each shard; STUN and TURN, and TURN over TLS. Not the ports of the
# relay: they are as many as operators choose.
EXPOSE 7880/tcp 7881/tcp 7882-7889/udp 3478/udp 3478/tcp 5349/tcp
# The store's path is relative to this folder.
WORKDIR /var/lib/switchyard
VOLUME ["/var/lib/switchyard"]
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["switchyard", "health"]
ENTRYPOINT ["switchyard"]
CMD ["serve"]
