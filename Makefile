# `make` alone lists what there is.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up test next test-compose test-k8s rehearse-k8s bench chaos chaos-ci floor simulate build lint fmt tools clean

# The servers that `make tools` gets come last: what the PATH has already is used first.
export PATH := $(PATH):$(CURDIR)/.tools/bin

# Programs are looked for here, wherever else Cargo is told to build.
export CARGO_TARGET_DIR := $(CURDIR)/target

# More flags for the command of `make up`, `make bench` and `make chaos`: make up ARGS="--scale order=4 --port 9000"
ARGS ?=

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  ARGS="…" passes flags on: make up ARGS="--scale order=4,payment=4,stock=4 --port 9000"'

up: tools build ## Runs the whole platform on this machine (Ctrl-C stops it)
	@exec target/release/checkout up $(ARGS)

test-compose: ## Brings compose.yaml up in containers, tests and hurts it, and takes it away (without Docker it says so)
	@test/compose/run.sh

test-k8s: ## Checks the Kubernetes manifests, without a cluster
	@test/k8s/run.sh

rehearse-k8s: ## Starts one group of databases as Kubernetes would, all at once and by name, and kills its primary
	@test/k8s/nodes.sh

next: ## Builds the services as a version that could be the next one, for the test of upgrades, into target/debug/next
	cargo build --workspace --bin order --bin payment --bin stock --features common/next-version
	@mkdir -p target/debug/next && cd target/debug && install order payment stock next/

test: tools next ## Runs all tests
	cargo build --workspace --bins
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run --workspace $(ARGS); else set -x; cargo test --workspace $(ARGS); fi

bench: tools build ## Measures checkouts on a platform of its own, in a temporary folder
	@exec target/release/checkout bench --own-platform $(ARGS)

chaos: tools build ## Hurts a platform of its own under load for two minutes, and checks that nobody was told anything untrue
	@exec target/release/checkout chaos $(ARGS)

chaos-ci: tools ## The same, as CI does it: replicated, every kind of fault, three minutes, one seed
	cargo build --workspace --bins
	@target/debug/checkout chaos --ha --scale order=2,payment=2,stock=2 --minutes 3 --rate 8 --pause 4 --seed 11 $(ARGS)

floor: tools build ## Measures what the parts of a checkout cost by themselves, and the whole as a multiple of it
	cargo bench -p test --bench floor

simulate: ## Runs 100,000 seeds of the protocol simulator
	cargo run --release -p protocol -- simulate --seeds 100000 $(ARGS)

build: ## Builds all programs, optimised, into target/release
	cargo build --release --workspace --bins

lint: ## Checks formatting and lints; any finding is an error
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt: ## Formats the code
	cargo fmt --all

tools: ## Gets nats-server and redis-server into .tools/bin, where the PATH has none
	@scripts/tools.sh

clean: ## Removes what was built and the fetched servers
	cargo clean
	rm -rf .tools
