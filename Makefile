PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
export PIP_ROOT_USER_ACTION := ignore

# What each step leaves behind, so that it is not done again.
BARE := $(VENV)/.bare
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
NODE := tests/workers/node tests/browser_npm
NODE_MODULES := $(NODE:%=%/node_modules/.done)
COLLECTOR := .tools/otelcol
COLLECTOR_PARTS := tests/otelcol/builder.yaml
STATSD_EXPORTER := .tools/statsd_exporter
STATSD_EXPORTER_SOURCE := github.com/prometheus/statsd_exporter@v0.31.0
SCHEMAS := .tools/schemas
SCHEMAS_SOURCES := tests/schemas/main.go tests/schemas/go.mod

# The programs that the demo and the tests need, each with the Debian package that brings it.
DEMO_PROGRAMS := redis-server:redis-server
TEST_PROGRAMS := $(DEMO_PROGRAMS) prometheus:prometheus promtool:prometheus \
	prometheus-alertmanager:prometheus-alertmanager amtool:prometheus-alertmanager \
	curl:curl ss:iproute2 ip:iproute2 ps:procps redis-cli:redis-tools node:nodejs npm:npm gcc:build-essential \
	chromium:chromium chromedriver:chromium-driver \
	buildah:buildah debootstrap:debootstrap unshare:util-linux mount:mount systemd-analyze:systemd openssl:openssl

.DEFAULT_GOAL := help
.PHONY: help setup run test generate bench lock programs demo-programs

help: ## Show this
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: $(RUN) ## Make .venv with forewarn in it

run: $(RUN) ## Watch what the environment or forewarn.toml names; with nothing configured, show the demo
	@if [ -e forewarn.toml ]; then exec $(BIN)/forewarn run --config forewarn.toml; \
	elif [ -n "$$FAKTORY_URL$$FAKTORY_PROVIDER" ] || env | grep -q '^FOREWARN_'; then exec $(BIN)/forewarn run; \
	else $(MAKE) --no-print-directory demo-programs && exec $(BIN)/forewarn demo; fi

test: $(DEV) programs $(NODE_MODULES) $(COLLECTOR) $(STATSD_EXPORTER) $(SCHEMAS) ## Run everything that proves it: lint, types and tests
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "these files are not formatted:"; $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

generate: $(DEV) ## Write what is made from the code: rules, dashboards, mappings, and parts of the documentation
	@$(BIN)/python -m exporter.catalogue > docs/metrics.md
	@$(BIN)/python -m exporter.settings_docs > docs/configuration.md
	@$(BIN)/python -m exporter.rules
	@$(BIN)/python -m dashboards
	@$(BIN)/python -m exporter.outputs.statsd_exporter > deploy/statsd_exporter.yml

bench: $(DEV) ## Measure
	@$(BIN)/python -m bench

lock: ## Pin the newest versions that pyproject.toml allows (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	@uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --python-version 3.11 \
		pyproject.toml --extra demo -o requirements/run.txt >/dev/null
	@uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --python-version 3.11 \
		pyproject.toml --extra demo --group dev -o requirements/dev.txt >/dev/null
	@uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --python-version 3.11 \
		requirements/build.in -c requirements/dev.txt -o requirements/build.txt >/dev/null
	@for each in $(NODE); do (cd $$each && npm install --package-lock-only --omit-lockfile-registry-resolved \
		--no-audit --no-fund --loglevel=error >/dev/null) || exit 1; done

$(BARE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "forewarn needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(call install,python3-venv); fi
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUN): $(BARE) requirements/run.txt requirements/build.txt pyproject.toml
	@echo "installing forewarn into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): $(RUN) requirements/dev.txt
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(NODE_MODULES): %/node_modules/.done: %/package.json %/package-lock.json | programs
	@if command -v npm >/dev/null; then cd $* && npm ci --no-audit --no-fund --loglevel=error >/dev/null && touch node_modules/.done; fi

# The OpenTelemetry Collector has no package: its own builder makes it. In CI it must be there, elsewhere its tests are skipped.
$(COLLECTOR): $(COLLECTOR_PARTS)
	@mkdir -p $(@D)
	@if ! command -v go >/dev/null; then \
		echo "missing: go 1.25 or newer, to build the OpenTelemetry Collector (https://go.dev/doc/install)" >&2; [ "$$CI" != true ]; \
	else echo "building the OpenTelemetry Collector"; \
		version=$$(sed -n 's/.*otlpreceiver //p' $(COLLECTOR_PARTS)); \
		{ CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" \
		go run go.opentelemetry.io/collector/cmd/builder@$$version --config $(COLLECTOR_PARTS) \
		&& mv .tools/otelcol-build/otelcol $@ && rm -rf .tools/otelcol-build; } >.tools/otelcol.log 2>&1 || \
		{ cat .tools/otelcol.log >&2; [ "$$CI" != true ]; }; \
	fi

# Debian has no package of Prometheus's receiver of StatsD either: likewise.
$(STATSD_EXPORTER): Makefile
	@mkdir -p $(@D)
	@if ! command -v go >/dev/null; then \
		echo "missing: go 1.25 or newer, to build statsd_exporter (https://go.dev/doc/install)" >&2; [ "$$CI" != true ]; \
	else echo "building statsd_exporter"; \
		{ CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" GOBIN="$(CURDIR)/$(@D)" go install $(STATSD_EXPORTER_SOURCE) \
		&& touch $@; } >.tools/statsd_exporter.log 2>&1 || { cat .tools/statsd_exporter.log >&2; [ "$$CI" != true ]; }; \
	fi

# What the files of deploy/ are held against, and kustomize. In a copy, for Go adds to go.mod what those need in turn.
$(SCHEMAS): $(SCHEMAS_SOURCES)
	@rm -rf .tools/schemas-build && mkdir -p .tools/schemas-build && cp $(SCHEMAS_SOURCES) .tools/schemas-build
	@if ! command -v go >/dev/null; then \
		echo "missing: go 1.25 or newer, to build kustomize and the checks of deploy/ (https://go.dev/doc/install)" >&2; [ "$$CI" != true ]; \
	else echo "building kustomize and the checks of deploy/"; \
		{ cd .tools/schemas-build && CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=mod" \
		go build -o .. . sigs.k8s.io/kustomize/kustomize/v5 && touch ../schemas; } >.tools/schemas.log 2>&1 || \
		{ cat .tools/schemas.log >&2; [ "$$CI" != true ]; }; \
	fi
	@rm -rf .tools/schemas-build

programs:
	@$(call need,$(TEST_PROGRAMS))

demo-programs:
	@$(call need,$(DEMO_PROGRAMS))

# Install the Debian packages $(1), or say how to have them. In CI what is missing is a failure, elsewhere its tests are skipped.
install = as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo -n"; \
	if command -v apt-get >/dev/null && $$as_root true 2>/dev/null; then \
		echo "installing" $(1); \
		{ $$as_root apt-get update && \
		$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(1); } \
		>.apt.log 2>&1 || { cat .apt.log >&2; rm -f .apt.log; exit 1; }; rm -f .apt.log; \
	else \
		echo "missing:" $(1) "(on Debian: apt-get install" $(1)")" >&2; [ "$$CI" != true ]; \
	fi

need = missing=; for each in $(1); do \
		command -v $${each%%:*} >/dev/null || missing="$$missing $${each\#\#*:}"; done; \
	if [ -n "$$missing" ]; then $(call install,$$missing); fi
