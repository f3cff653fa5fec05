# Two commands: `make demo` shows the main job on the samples, `make test` runs every test.
# Both install what a bare Debian machine lacks. Builds go to a cache outside the clone, so that a clean clone finds them.

SHELL := /bin/bash
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sidecarta
export CARGO_TARGET_DIR ?= $(CACHE)/target
BIN := $(CARGO_TARGET_DIR)/release/sidecarta

.PHONY: demo test bench mesh build setup lint clean

demo: build
	@./samples/demo $(BIN)

test: lint
	@CACHE="$(CACHE)" ./setup test
	PATH="$(CACHE)/alertmanager/usr/bin:$(CACHE)/prometheus/usr/bin:$$PATH:/usr/sbin:/sbin" cargo test --workspace --locked

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p sidecarta-capture --no-default-features --all-targets --locked -- -D warnings
	! cargo tree -p sidecarta-capture --no-default-features -e normal --locked | grep -E 'netlink|socket2|rustix|linux'

# `live` needs root, for its network namespaces, and fails without.
bench: build
	@./setup bench
	cargo bench --locked --bench replay
	cargo bench --locked --bench scope
	cargo bench --locked --bench live
	cargo bench --locked --bench recorder

# A real mesh without containers (lab/README.md). Its programs are built once, which takes half an hour.
mesh: build
	@[ "$$(id -u)" -eq 0 ] || { echo "make mesh needs root, for network namespaces" >&2; exit 1; }
	@./lab/mesh $(BIN)

build: setup
	cargo build --release --locked

setup:
	@./setup

clean:
	cargo clean
