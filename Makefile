# `make` alone tells what there is. CI runs the same verbs.

# In CI the lock file is the law; by hand, cargo may still fix it.
CARGO_FLAGS := $(if $(CI),--locked)

.DEFAULT_GOAL := help
.PHONY: help rust demo test test-unit test-types test-it chaos chaos-full recovery confirms fuzz bench-screen bench-isolation fmt lint check build release doc deny images images-rm

help: ## Print this help
	@echo "cancel-worker: make VERB"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "demo, test and chaos find a RabbitMQ by themselves: AMQP_URL if it is set, else Docker, else an installed or"
	@echo "installable rabbitmq-server. BROKER=url, BROKER=docker or BROKER=native forces a way. RABBITMQ_VERSION=4.3 (or 4.0, or"
	@echo "3.10) takes that version and no other."

rust:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.95 or later, see https://rustup.rs" >&2; exit 69; }
	@command -v cc >/dev/null || { echo "a C compiler is missing (Debian: apt-get install gcc libc6-dev)" >&2; exit 69; }

demo: rust ## Watch cancellations of all five kinds go through a RabbitMQ and a stand-in of the gateway
	cargo build $(CARGO_FLAGS)
	deploy/rabbitmq/with-broker -- cargo run --quiet $(CARGO_FLAGS) -- demo

test: test-unit test-types test-it ## Run all tests, on RabbitMQ 4.0 and, where they can be had, on 3.10 and 4.3 too

test-unit: rust ## Run the tests that need no RabbitMQ
	cargo test $(CARGO_FLAGS) --no-run
	cargo test --quiet $(CARGO_FLAGS) --lib --bins --test architecture --test contract --test wire --test truth --test commands
	cargo test --quiet $(CARGO_FLAGS) --doc

test-types: ## Generate types from schemas/ and try them on every example, where Python and PyPI can be reached
	tests/types/run

test-it: rust ## Run the tests that need a RabbitMQ; TEST=name runs those whose name contains it
	cargo test $(CARGO_FLAGS) --no-run --test it
	deploy/rabbitmq/each-version -- cargo test --quiet $(CARGO_FLAGS) --test it -- $(TEST)

bench-screen: ## Measure what the screen under the client library costs a letter
	cargo test --quiet $(CARGO_FLAGS) --release --test screen

bench-isolation: rust ## Measure how much the lanes feel of each other's trouble
	cargo test $(CARGO_FLAGS) --release --no-run --test isolation
	deploy/rabbitmq/with-broker -- cargo test --quiet $(CARGO_FLAGS) --release --test isolation

recovery: rust ## Measure how soon a worker consumes again after 200 lost brokers: target/recovery.json (8 minutes)
	cargo test $(CARGO_FLAGS) --test recovery

confirms: rust ## Prove that confirms are exact over 600 generations (5 minutes)
	cargo test $(CARGO_FLAGS) --no-run --test it
	CONFIRMS_GENERATIONS=200 TEST_MAX_S=900 cargo test --quiet $(CARGO_FLAGS) --test it -- our_publisher --nocapture

fuzz: rust ## Feed what reads strangers' bytes with odd ones, FUZZ_SECONDS=60 for each target
	@command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --version 0.13.2 cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
	  echo "fuzz: $$target for $(FUZZ_SECONDS) s"; \
	  (cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=20000 -print_final_stats=1 2>&1) >target/fuzz-$$target.log \
	    && grep -E "^Done|units_executed|number_of_executed_units" target/fuzz-$$target.log \
	    || { tail -n 40 target/fuzz-$$target.log; exit 1; }; \
	done

# The fuzzer's flags need a compiler that takes unstable ones; nothing that we ship is built so.
FUZZ_TARGETS := screen
FUZZ_SECONDS ?= 60

chaos: rust ## Break workers, network, broker and gateway under load, and audit every outcome; CHAOS_ONLY=name runs one scenario
	cargo test --quiet $(CARGO_FLAGS) --test chaos

chaos-full: rust ## The same with thousands of intents in each scenario; CHAOS_SEED=number gives other payments and moments
	cargo test --quiet $(CARGO_FLAGS) --release --test chaos -- --full

fmt: rust ## Format the code
	cargo fmt --all

lint: rust ## Check format, lints and scripts; a warning fails
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets --test recovery --test isolation --test screen -- -D warnings
	@for script in $(SCRIPTS); do bash -n $$script || exit 1; done
	@if command -v shellcheck >/dev/null; then \
	  echo "shellcheck $(SCRIPTS)"; shellcheck --shell bash --severity warning $(SCRIPTS); \
	else echo "lint: shellcheck is not installed, so the scripts were only parsed"; fi

SCRIPTS := .ci/run .ci/banned-crates tests/types/run $(wildcard deploy/rabbitmq/*)

check: rust ## Compile everything without building it
	cargo check $(CARGO_FLAGS) --all-targets --test recovery --test isolation --test screen

build: rust ## Build for development
	cargo build $(CARGO_FLAGS)

release: rust ## Build for production: target/release/cancel-worker
	cargo build $(CARGO_FLAGS) --release

doc: rust ## Build the documentation, private items included; a warning fails
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps --document-private-items

deny: rust ## Check the crates we depend on: bans always; advisories and licences with cargo-deny
	.ci/banned-crates
	@if command -v cargo-deny >/dev/null; then \
	  cargo deny check bans licenses sources || exit 1; \
	  if timeout 120 cargo deny fetch db </dev/null; then cargo deny check --disable-fetch advisories; \
	  else echo "deny: ATTENTION: the advisory database is not in reach, so advisories were NOT checked."; fi; \
	else \
	  echo "deny: ATTENTION: cargo-deny is not installed, so advisories, licences and sources were NOT checked."; \
	  echo "deny: 'cargo install --locked cargo-deny' installs it (about four minutes)."; \
	fi

images: ## Get the RabbitMQ images that demo and test use
	deploy/rabbitmq/image --version 4.0
	deploy/rabbitmq/image --version 3.10
	deploy/rabbitmq/image --version 4.3

images-rm: ## Remove the RabbitMQ images that were built here
	docker image rm --force cancel-worker-rabbitmq:4.0 cancel-worker-rabbitmq:3.10 cancel-worker-rabbitmq:4.3
