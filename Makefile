# The two commands: `make demo` runs the main job end to end, `make test` proves everything.
# Both install what they need on a fresh Debian 12 (root, Python 3.11+) and can be run again at any time.

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
MINUTES ?= 6
TIMES   ?= 10
# Simulations run by themselves: under the coverage tracer they take three times as long.
PYTEST  := $(RUN) -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal
UNIT    := $(PYTEST) tests
E2E     := $(RUN) -m pytest -m e2e --durations=10
# Clusters wait most of the time, so several of them share the cores; what disturbs all of them comes last, by itself.
SIDE_BY_SIDE := e2e/test_clusters.py
ALONE   := e2e/test_disturbances.py e2e/test_placement.py
# 5 is "no test selected": PYTEST_ARGS="-k ..." may choose from one of the runs only, and nothing else may choose none.
OR_NONE := $(PYTEST_ARGS) $(if $(PYTEST_ARGS),|| [ $$? -eq 5 ])
export PYTHONDONTWRITEBYTECODE = 1

.DEFAULT_GOAL := help
.PHONY: help env kubernetes demo test unit measured simulations simulations-long lint format e2e e2e-first e2e-side-by-side e2e-alone e2e-long generate golden-recording bench-router bench-policy bench-policy-quick bench-splitwise bench-simulator bench-agreement bench-agreement-engines clean-cluster clean

help: ## what can be made
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 24

env: ## the Python environment (.venv)
	@$(PYTHON) -m e2e.bootstrap

kubernetes: env ## the embedded Kubernetes, up, with all images; with IMAGE_REGISTRY=... the images are pushed there instead
ifdef IMAGE_REGISTRY
	@$(RUN) -m e2e.localkube images --push $(IMAGE_REGISTRY)
else
	@$(RUN) -m e2e.localkube up
	@$(RUN) -m e2e.localkube images
endif

demo: env ## a trace through three pools that follow it: make demo [TRACE=file.csv] [MINUTES=10]
	@$(RUN) -m e2e.demo --minutes $(MINUTES) $(if $(TRACE),--trace $(TRACE)) $(DEMO_ARGS)

test: lint ## everything: lint, unit tests, end-to-end tests on the embedded Kubernetes
	@# Tests of the chart need the helm that is built for the embedded Kubernetes; who is not root has neither.
	@if [ "$$(id -u)" = 0 ]; then $(RUN) -m e2e.localkube prepare; fi
	@$(MAKE) --no-print-directory --jobs=1 measured e2e-first e2e-side-by-side
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line simulations e2e-alone

lint: env ## ruff, mypy --strict, the rings (import-linter), generated files
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy operator/inferencecluster e2e tests runtime_images/emulated/src runtime_images/trtllm/src benches
	@$(VENV)/bin/lint-imports
	@$(RUN) -m inferencecluster.api.crd --check crds helm/inferencecluster-operator/files/crds

unit: measured simulations ## unit tests with branch coverage (a few minutes)

measured: env
	@$(UNIT) -m "not simulation" --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

# With low priority: `make test` runs them while the last end-to-end tests mostly wait.
simulations: env
	@nice $(UNIT) -m simulation --timeout=300 $(PYTEST_ARGS)

simulations-long: env ## what must always hold, over more random clusters: make simulations-long [TIMES=10]
	@PROPERTY_TIMES=$(TIMES) $(PYTEST) tests/core/test_decision_machine.py tests/simulator/test_simulator_invariants.py \
		--timeout=0 $(PYTEST_ARGS)

e2e: env ## end-to-end tests on the embedded Kubernetes
	@$(MAKE) --no-print-directory --jobs=1 e2e-first e2e-side-by-side e2e-alone

e2e-first: env
	@$(E2E) e2e $(addprefix --ignore=,$(SIDE_BY_SIDE) $(ALONE)) $(OR_NONE)

e2e-side-by-side: env
	@$(E2E) $(SIDE_BY_SIDE) --numprocesses=4 --maxschedchunk=1 $(OR_NONE)

e2e-alone: env
	@$(E2E) $(ALONE) $(OR_NONE)

e2e-long: env clean-cluster ## the long versions: five minutes at rest, three minutes without Prometheus
	@REST_SECONDS=300 OUTAGE_SECONDS=180 $(RUN) -m pytest e2e/test_disturbances.py -m e2e --timeout=1200 \
		-k "at_rest or without_prometheus" $(PYTEST_ARGS)

generate: env ## rewrite generated files: CRDs
	@$(RUN) -m inferencecluster.api.crd crds helm/inferencecluster-operator/files/crds

golden-recording: env ## record the operator's looks anew, for tests of replay
	@$(RUN) -m tests.controller.recorded_run tests/controller/golden/looks.jsonl

format: env ## format the code
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix --select I .

bench-router: env ## added latency and highest rate of the router beside a direct call
	@$(RUN) -m benches.router

bench-policy: env ## every sizing policy on every workload (hours; goes on where it was left): make bench-policy TRACES=folder
	@$(RUN) -m benches.policy $(if $(TRACES),--traces $(TRACES)) --write-docs $(BENCH_ARGS)

bench-policy-quick: env ## the same with few policies at a fifth of the load (minutes), without rewriting docs
	@$(RUN) -m benches.policy $(if $(TRACES),--traces $(TRACES)) --quick $(BENCH_ARGS)

bench-splitwise: env ## Splitwise's published results in our simulator: make bench-splitwise TRACES=folder TABLE=perf_model.csv
	@$(RUN) -m benches.splitwise --table $(TABLE) --traces $(TRACES) --write-docs $(BENCH_ARGS)

bench-simulator: env ## what a simulated request costs, beside splitwise-sim: make bench-simulator TRACES=folder [TABLE=perf_model.csv]
	@$(RUN) -m benches.simulator_speed --traces $(TRACES) $(if $(TABLE),--table $(TABLE)) $(BENCH_ARGS)

bench-agreement: demo ## the demo, then the same run in the simulator, compared: make bench-agreement TRACE=file.csv MINUTES=10
	@$(RUN) -m benches.agreement build/demo --write-docs

bench-agreement-engines: env ## router and emulated engines as plain processes beside the simulator (two minutes, no Kubernetes)
	@$(RUN) -m benches.agreement.engines $(if $(TRACE),--trace $(TRACE)) $(BENCH_ARGS)

clean-cluster: ## stop the embedded Kubernetes: no process, mount, link, route or cgroup stays
	@$(PYTHON) -m e2e.localkube down

clean: clean-cluster ## also remove the environment and build results (the cache in ~/.cache stays)
	@rm -rf $(VENV) build dist
