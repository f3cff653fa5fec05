# Two commands: `make demo` shows the main job on the samples, `make test` runs every test.
# Both install what a bare Debian machine lacks. Builds go to a cache outside the clone, so that a clean clone finds them.

SHELL := /bin/bash
# Where there is no HOME, the shell knows it from the user's entry in /etc/passwd.
export HOME ?= $(shell echo ~)
export CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sidecarta
export CARGO_TARGET_DIR ?= $(CACHE)/target
BIN := $(CARGO_TARGET_DIR)/release/sidecarta

.PHONY: demo test torture bench mesh test-fresh build setup setup-test setup-bench lint clean
# What is missing comes before what needs it.
.NOTPARALLEL:

demo: build
	@./samples/demo $(BIN)

test: setup-test lint
	PATH="$(CACHE)/alertmanager/usr/bin:$(CACHE)/prometheus/usr/bin:$$PATH:/usr/sbin:/sbin" cargo test --workspace --locked

# The fault sweeps and attacks of `make test`, whole: every call that can fail, 1,000 damaged stores,
# 1,000 kills. Takes an hour or so.
torture: setup-test
	SIDECARTA_TORTURE=1 SIDECARTA_KILLS=1000 cargo test --locked --test store_faults --test recorder -- --nocapture

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p sidecarta-capture --no-default-features --all-targets --locked -- -D warnings
	! cargo tree -p sidecarta-capture --no-default-features -e normal --locked | grep -E 'netlink|socket2|rustix|linux'
	! cargo tree -p sidecarta-istio -e normal --locked | grep -E 'sidecarta-capture|pcap|sled|tokio|kube'
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked -p sidecarta-istio -p sidecarta-model -p sidecarta-text -p sidecarta-capture

# `live` needs root, for its network namespaces, and fails without.
bench: setup-bench build
	cargo bench --locked --bench replay
	cargo bench --locked --bench scope
	cargo bench --locked --bench live
	cargo bench --locked --bench recorder

# A real mesh without containers (lab/README.md). Its programs are built once, which takes half an hour.
mesh:
	@[ "$$(id -u)" -eq 0 ] || { echo "make mesh needs root, for network namespaces" >&2; exit 1; }
	@./setup mesh
	cargo build --release --locked
	@./lab/mesh $(BIN)

# For those who change `setup`: the commands above on bare Debian roots of their own. Needs root.
test-fresh:
	@./tests/fresh $(PARTS)

build: setup
	cargo build --release --locked

setup:
	@./setup

setup-test setup-bench:
	@./setup $(@:setup-%=%)

clean:
	cargo clean
