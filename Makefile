# What is done with this repository. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Seeds of each world test in `make worlds`.
SEEDS ?= 200
# Attempts of each of the 32 cells of the matrix in `make attempts`, and sessions of each change of network.
ATTEMPTS ?= 84
# How often `make kills` kills a server.
KILLS ?= 400
# What `make image` builds with: docker, podman or buildah.
ENGINE ?= docker

.PHONY: help run test check fmt worlds attempts kills bench loadtest image container fuzz

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | \
		while IFS=$$'\t' read -r name does; do printf '  make %-10s %s\n' "$$name" "$$does"; done

run: ## Build the server and run it in development mode
	cargo run --release

test: ## Install what the tests need, then check and test everything
	@tests/run test

check: ## Format, lints, documentation, types, and the rules of tests/checks
	@tests/run check

fmt: ## Format the Rust sources
	cargo fmt

worlds: ## Run the world tests and the network simulator's over many seeds (SEEDS=200)
	SEEDS=$(SEEDS) cargo test --test it -- worlds
	SEEDS=$(SEEDS) cargo test -p switchyard-loadtest --lib -- netsim

attempts: ## Connect 2,688 pairs over networks that block and lose, take 1,680 sessions through changes (ATTEMPTS=84)
	SEEDS=$(ATTEMPTS) cargo test --test it -- --nocapture --test-threads 1 attempts

kills: ## Kill a loaded server with SIGKILL, with SQLite and with PostgreSQL (KILLS=400)
	KILLS=$(KILLS) cargo test --test crash -- --nocapture killed

bench: ## Run the benchmarks
	cargo run --release -p switchyard-bench

loadtest: ## Run five minutes of load scenarios against servers of its own
	@loadtest/local

image: ## Build the server's image (ENGINE=docker)
	BUILDAH_FORMAT=docker $(ENGINE) build --tag switchyard .

container: ## Build the images without docker and run them (as root, on Debian)
	@nice tests/container/run

fuzz: ## Fuzz each parser for a minute (needs a nightly toolchain and cargo-fuzz)
	@tests/fuzz/run
