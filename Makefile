# Every target sets up what it needs by itself; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The order of a target's steps is meant: cheap checks first, the tests last. `test-beside` alone runs steps at once.
ifdef BESIDE
# Cargo would look for make's job server, which make opens only to makes.
unexport MAKEFLAGS
else
.NOTPARALLEL:
endif

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
SDK_VENV := $(TARGET_DIR)/sdk-venv
SDK_NODE := $(TARGET_DIR)/sdk-node
LITELLM_VENV := $(TARGET_DIR)/litellm-venv
DEPLOY_VENV := $(TARGET_DIR)/deploy-venv
PROMTOOL := $(TARGET_DIR)/tools/promtool
STRIPE_VENV := $(TARGET_DIR)/buying-venv
SCREENS_NODE := $(TARGET_DIR)/screens-node
NEXTEST_PROFILE ?= $(if $(CI),ci,default)
SCRIPTS := $(wildcard scripts/*.sh) .ci/run

.PHONY: help
help: ## List the targets, and how long each takes on two cores once all is installed and built
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup setup-run setup-test setup-quick setup-dist setup-screenshots setup-cluster setup-bench
setup: ## Install all that running, testing and benching need, through apt on Debian and Ubuntu (5 to 10 min, once)
	@scripts/setup.sh
setup-run setup-test setup-quick setup-dist setup-screenshots setup-cluster setup-bench: setup-%:
	@scripts/setup.sh $*

.PHONY: run
run: setup-run ## Build Farebox and start its demo: no config, no server, a funded account (first build: 3 min)
	cargo run --locked --profile quick -- demo

.PHONY: dist
dist: setup-dist ## The release: stripped binary, .tar.gz, .deb and SHA-256, in target/dist (10 min)
	scripts/dist.sh

.PHONY: run-cluster
run-cluster: setup-cluster ## Two gateways on one ledger: a private Redis and Postgres, the demo's upstream (first build: 3 min)
	scripts/run-cluster.sh

.PHONY: test test-quick
test-quick: setup-quick ## Unit tests, the embedded ledger and the proxy (first build: 6 min; then 1.5 min)
	cargo nextest run --locked --profile $(NEXTEST_PROFILE) --test-threads $$((3 * $$(nproc))) \
		--lib --test ledger --test proxy -E 'not (binary(ledger) and test(/redis|cluster|without_postgres|layouts/))'
test: setup-test fmt-check clippy shellcheck luacheck deny docs test-beside test-rust ## Every check and every test, as CI runs them (first build: 10 min; then 11 min)
	@if [ -e $(TARGET_DIR)/advisories-not-checked ]; then cat $(TARGET_DIR)/advisories-not-checked; fi >&2

.PHONY: lint
lint: setup-test fmt-check clippy shellcheck luacheck deny ## The checks without the tests (first build: 5 min; then 1 min)

.PHONY: fmt fmt-check clippy shellcheck luacheck deny
fmt: ## Format the Rust code (1 s)
	cargo fmt
fmt-check:
	cargo fmt --check
clippy:
	cargo clippy --locked --all-targets -- -D warnings
shellcheck:
	shellcheck --external-sources $(SCRIPTS)
luacheck: ## The ledger's scripts in Redis, each file alone (1 s)
	luacheck --quiet $(wildcard src/store/cluster/redis/*.lua)
deny: ## Licences, sources and advisories of the dependencies (closed network: FAREBOX_WITHOUT_ADVISORIES=1; 5 s)
	scripts/deny.sh

.PHONY: docs
docs: ## Build the API documentation, warnings denied (20 s)
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# They mostly wait: for streams, for the compiler. The output of each is shown when it has ended.
.PHONY: test-beside
test-beside: ## All tests but those in Rust: web, rules, deploy, doc and sdk, side by side (30 s)
	$(MAKE) --jobs=5 --output-sync=target BESIDE=1 test-web test-rules test-deploy test-doc test-sdk

.PHONY: test-rules test-deploy
test-rules: ## Prometheus' rules and alerts, against what gateways would show (5 s)
	cd deploy/prometheus && $(abspath $(PROMTOOL)) check config prometheus.yml
	cd deploy/prometheus && $(abspath $(PROMTOOL)) test rules *_test.yml
test-deploy: $(DEPLOY_VENV)/installed ## Compose, Kubernetes, dashboard and runbook, against the code (10 s)
	cargo build --locked --bin farebox
	FAREBOX_BIN=$(TARGET_DIR)/debug/farebox PROMTOOL=$(PROMTOOL) $(DEPLOY_VENV)/bin/python tests/deploy/test_deploy.py

.PHONY: test-rust test-orders test-screens test-doc test-sdk test-litellm stripe-venv screens-node
test-rust: stripe-venv screens-node ## The Rust tests alone (10 min)
	FAREBOX_STRIPE_PYTHON=$(abspath $(STRIPE_VENV))/bin/python FAREBOX_SCREENS_NODE=$(abspath $(SCREENS_NODE)) \
		scripts/test-env.sh cargo nextest run --locked --profile $(NEXTEST_PROFILE) --test-threads $$((5 * $$(nproc) + 1))
test-orders: stripe-venv ## Stripe's events in many random orders with crashes between (30 min)
	FAREBOX_STRIPE_PYTHON=$(abspath $(STRIPE_VENV))/bin/python FAREBOX_ROUNDS=$(or $(FAREBOX_ROUNDS),60) \
		cargo nextest run --locked --profile long --test buying -E 'test(orders::)'
test-screens: screens-node ## The screens alone, in Chromium; FAREBOX_SCREENSHOTS=<folder> keeps pictures of them (3 min)
	FAREBOX_SCREENS_NODE=$(abspath $(SCREENS_NODE)) \
		cargo nextest run --locked --profile $(NEXTEST_PROFILE) --test screens
test-doc:
	cargo test --locked --doc
test-sdk: $(SDK_VENV)/installed $(SDK_NODE)/installed ## The SDKs of OpenAI, Anthropic and Vercel through Farebox, and what they pay (40 s)
	cargo build --locked --bin farebox
	FAREBOX_BIN=$(TARGET_DIR)/debug/farebox FAREBOX_SDK_NODE=$(SDK_NODE) $(SDK_VENV)/bin/python tests/sdk/run.py
test-litellm: $(LITELLM_VENV)/installed ## LiteLLM's proxy as upstream: its own count of tokens and Farebox's (installs 760 MB; then 1 min)
	cargo build --locked --bin farebox
	FAREBOX_BIN=$(TARGET_DIR)/debug/farebox $(LITELLM_VENV)/bin/python tests/litellm/test_litellm.py

stripe-venv: $(STRIPE_VENV)/installed ## Stripe's own SDK, which signs events for the Rust tests (10 s)
screens-node: $(SCREENS_NODE)/installed ## axe-core, both Reacts, Vite and TypeScript, for the tests of the screens (20 s)

.PHONY: screenshots
screenshots: setup-screenshots screens-node ## The README's pictures, made anew, with pngquant (1 min)
	FAREBOX_SCREENS_NODE=$(abspath $(SCREENS_NODE)) FAREBOX_SCREENSHOTS=$(abspath $(TARGET_DIR)/pictures) \
		cargo nextest run --locked --test screens -E 'test(pictures::)'
	for name in account account-phone upsell admin; do \
		pngquant --force --skip-if-larger --speed 1 --output docs/screenshots/$$name.png $(TARGET_DIR)/pictures/$$name.png; \
	done

.PHONY: test-web
test-web: screens-node ## The widgets of web/: amounts, words, the store, types (10 s)
	FAREBOX_SCREENS_NODE=$(abspath $(SCREENS_NODE)) node --test web/test/*.test.js

# Each in a folder of its own, made anew when the pinned versions change.
$(TARGET_DIR)/%-venv/installed: tests/%/requirements.txt
	python3 -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# The versions are those of package-lock.json; nothing of theirs is run while they are installed.
$(TARGET_DIR)/%-node/installed: tests/%/package.json tests/%/package-lock.json
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --ignore-scripts --legacy-peer-deps --no-audit --no-fund --loglevel=error
	touch $@

# Both end by themselves; FAREBOX_SEED=<number> repeats what a run chose.
MINUTES ?= 10
.PHONY: torture
torture: setup-test ## Faults in a whole cluster at random for MINUTES (10), then everything is checked
	FAREBOX_TORTURE_MINUTES=$(MINUTES) cargo test --locked --test cluster -- torture:: --nocapture

.PHONY: outages
REPEATS ?= 10
outages: setup-test ## How long each fault of Redis and Postgres is felt, REPEATS (10) times each: the table of docs/cluster.md (15 min)
	FAREBOX_OUTAGES=$(REPEATS) cargo test --locked --test cluster -- --ignored --nocapture outage_times::

.PHONY: fuzz
fuzz: setup-test ## Requests at random, HTTP/1 and HTTP/2, for MINUTES (10): no call is run for less than its price
	FAREBOX_FUZZ_MINUTES=$(MINUTES) cargo test --locked --test product -- fuzz:: --nocapture

.PHONY: crosstalk
crosstalk: setup-test ## Connections at random, cut and pipelined, for MINUTES (10): each answer is the one to its request
	FAREBOX_CROSSTALK_MINUTES=$(MINUTES) cargo test --locked --test forwarder -- crosstalk:: --nocapture

.PHONY: bench
bench: setup-bench ## Farebox next to a bare Pingora and to nginx + Lua + Redis: requests/s, CPU a request, p50, p99 (first build: 10 min; then 20 min)
	scripts/bench.sh

.PHONY: clean
clean: ## Remove all that was built
	cargo clean
