# Two commands: `make demo` shows the main job on the samples, `make test` runs every test.
# Both install what a bare Debian machine lacks. Builds go to a cache outside the clone, so that a
# clean clone finds them.

SHELL := /bin/bash
# Where there is no HOME, the shell knows it from the user's entry in /etc/passwd.
export HOME ?= $(shell echo ~)
export CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sidecarta
export CARGO_TARGET_DIR ?= $(CACHE)/target
BIN := $(CARGO_TARGET_DIR)/release/sidecarta

.PHONY: demo test torture bench mesh test-fresh test-upgrade fuzz build setup setup-test setup-bench lint \
	lint-workflows supply-chain dist clean
# What is missing comes before what needs it.
.NOTPARALLEL:

demo: build
	@./samples/demo $(BIN)

test: setup-test lint lint-workflows
	PATH="$(CACHE)/alertmanager/usr/bin:$(CACHE)/prometheus/usr/bin:$$PATH:/usr/sbin:/sbin" \
	  cargo test --workspace --locked

# The fault sweeps and attacks of `make test`, whole: every call that can fail, 1,000 damaged
# stores, 1,000 kills. Takes an hour or so.
torture: setup-test
	SIDECARTA_TORTURE=1 SIDECARTA_KILLS=1000 \
	  cargo test --locked --test store_faults --test recorder -- --nocapture

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p sidecarta-capture --no-default-features --all-targets --locked -- -D warnings
	! cargo tree -p sidecarta-capture --no-default-features -e normal --locked | \
	  grep -E 'netlink|socket2|rustix|linux'
	! cargo tree -p sidecarta-istio -e normal --locked | \
	  grep -E 'sidecarta-capture|pcap|sled|tokio|kube'
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked -p sidecarta-istio -p sidecarta-model \
	  -p sidecarta-text -p sidecarta-capture

# The workflows of .github. Without actionlint (`setup test` builds it) it says so.
lint-workflows:
	@PATH="$(CACHE)/bin:$$PATH"; if command -v actionlint >/dev/null; then \
	  actionlint -shellcheck= -pyflakes= .github/workflows/*.yaml; \
	else \
	  echo "NOT RUN: the workflows are not checked, for there is no actionlint: ./setup test" >&2; \
	fi

# Licences, banned crates and sources of dependencies. Needs cargo-deny, and no network once the
# crates are fetched; known vulnerabilities need one: `cargo deny check advisories`.
supply-chain:
	@command -v cargo-deny >/dev/null || { echo "make supply-chain needs cargo-deny:" \
	  "cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny --locked check licenses bans sources

# `live` needs root, for its network namespaces, and fails without.
bench: setup-bench build
	cargo bench --locked --bench replay
	cargo bench --locked --bench scope
	cargo bench --locked --bench live
	cargo bench --locked --bench recorder

# A real mesh without containers (lab/README.md). Its programs are built once, which takes half an
# hour.
mesh:
	@[ "$$(id -u)" -eq 0 ] || { echo "make mesh needs root, for network namespaces" >&2; exit 1; }
	@./setup mesh
	cargo build --release --locked
	@./lab/mesh $(BIN)

# Agents, recorders and stores of another commit together with those of this one.
BEFORE ?= HEAD~1
test-upgrade: setup
	@./tests/before $(BEFORE)

# Parsers of foreign bytes under libFuzzer, so many seconds each. `make test` has a short run.
SECONDS_EACH ?= 600
fuzz: setup-fuzz
	@./fuzz/run $(SECONDS_EACH) $(TARGETS)

# For those who change `setup`: the commands above on bare Debian roots of their own. Needs root.
test-fresh:
	@./tests/fresh $(PARTS)

build: setup
	cargo build --release --locked

# What a release consists of, in dist/. With TAG=v1.2.3, only where that is the version.
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
NAME = sidecarta-$(VERSION)-$(shell uname -m)-linux
dist: build
	@[ -z "$(TAG)" ] || [ "$(TAG)" = "v$(VERSION)" ] || \
	  { echo "the tag $(TAG) is not the version $(VERSION) of Cargo.toml" >&2; exit 1; }
	rm -rf dist && mkdir -p dist/$(NAME)
	cp -r $(BIN) LICENSE README.md SECURITY.md CHANGELOG.md openapi.yaml deploy docs dist/$(NAME)
	tar -C dist --sort=name --owner=0 --group=0 --numeric-owner -czf dist/$(NAME).tar.gz $(NAME)
	cd dist && sha256sum *.tar.gz >SHA256SUMS
	awk '/^## /{on = index($$0, "## $(VERSION)") == 1; next} on' CHANGELOG.md >dist/notes.md
	@[ -s dist/notes.md ] || { echo "CHANGELOG.md has no section $(VERSION)" >&2; exit 1; }

setup:
	@./setup

setup-test setup-bench setup-fuzz:
	@./setup $(@:setup-%=%)

clean:
	cargo clean
