# One image for each program of the platform: `--build-arg BINARY=order` (or payment, stock, checkout). All are compiled once, in
# the stage that they share; compose.yaml names the four.

# The manifests alone, with an empty crate for each: as long as they are the same, so is the layer of dependencies below. What a manifest
# names by itself, like a benchmark, must be there too.
FROM debian:bookworm-slim AS manifests
COPY . /from
WORKDIR /manifests
RUN cd /from && cp Cargo.toml Cargo.lock /manifests/ \
 && for manifest in */Cargo.toml */*/Cargo.toml; do \
      folder=/manifests/${manifest%/Cargo.toml}; mkdir -p "$folder/src"; cp "$manifest" "$folder/"; \
      : >"$folder/src/lib.rs"; echo 'fn main() {}' >"$folder/src/main.rs"; \
      for bench in $(sed -n '/^\[\[bench\]\]/,/^$/s/^name = "\(.*\)"/\1/p' "$manifest"); do \
        mkdir -p "$folder/benches"; echo 'fn main() {}' >"$folder/benches/$bench.rs"; \
      done; \
    done \
 && find /manifests -exec touch -d @0 {} +

FROM rust:1.95-bookworm AS build
WORKDIR /src
# `--build-arg LTO=off` compiles in half the time, and the programs are a little slower: for tests.
ARG LTO=thin
ENV CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_LTO=${LTO} CARGO_TERM_COLOR=never
COPY --from=manifests /manifests ./
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    cargo build --release --locked -p order -p payment -p stock -p checkout
COPY . .
# The copied sources may be older than the empty ones that were compiled above; cargo goes by time.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
 && cargo build --release --locked -p order -p payment -p stock -p checkout \
 && mkdir /out && cp target/release/order target/release/payment target/release/stock target/release/checkout /out/

FROM gcr.io/distroless/cc-debian12 AS runtime
ARG BINARY=checkout
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="checkout platform: ${BINARY}" \
      org.opencontainers.image.description="Distributed checkout by choreography over NATS JetStream" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
# Under one name, so that one entry point serves all; there is no shell that could choose. `--help` still says which one it is.
COPY --from=build /out/${BINARY} /app
# The user `nonroot` of distroless, by number, because Kubernetes verifies `runAsNonRoot` by number.
USER 65532:65532
# All programs write nothing to the file system, and drain on SIGTERM.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app"]
