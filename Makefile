# `make run` trains a federation through the function; `make test` runs the test suite.
# Each target installs what it needs first, and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DOCS := .venv-docs
EXAMPLES := .venv-examples
ORACLES := .venv-oracles
SCANNER := .venv-scan
LOCKER := .venv-lock

# Noise hides a client among many: differential privacy needs more of them.
CLIENTS ?= $(if $(filter dp,$(PRIVACY)),50,10)
ROUNDS ?= 15
DB ?= sqlite
FUNCTIONS ?= 1
STACK ?= federation
PRIVACY ?= none
WORKERS ?= 3

# Installs locked requirements into an environment, and refuses a Python that is not supported.
INSTALL = $(PYTHON) -m tools.install

# The engine uses threads of its own, as on Lambda; the threads of BLAS would compete with them.
export OPENBLAS_NUM_THREADS := 1

.DEFAULT_GOAL := help

help: ## Show the targets.
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Try it
.PHONY: help run admin shell

run: $(VENV)/.run ## Train a federation on this machine: make run CLIENTS=20 ROUNDS=30 DB=postgres FUNCTIONS=4, or PRIVACY=dp or secure.
	@$(BIN)/python -m local --clients $(CLIENTS) --rounds $(ROUNDS) --db $(DB) --functions $(FUNCTIONS) --privacy $(PRIVACY)

admin: export DATABASE_URL := sqlite:///$(CURDIR)/run/database.sqlite3
admin: export STORAGE_ROOT := $(CURDIR)/run/bucket
admin: export BUCKET :=
admin: export QUEUE_URL :=
# Without HTTPS, the cookies of the console must not be marked as secure.
admin: export DEBUG := true
admin: export DJANGO_SUPERUSER_PASSWORD := admin
admin: $(VENV)/.run ## Open the console on the result of `make run`, with SQLite.
	@test -f run/database.sqlite3 || { echo "There is no database in run/. Start \`make run\` first, with its default DB=sqlite."; exit 1; }
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py createsuperuser --noinput --username admin --email admin@localhost 2>/dev/null || true
	@echo "http://127.0.0.1:8000/ user admin, password admin; Ctrl-C stops it"
	@$(BIN)/python manage.py runserver --noreload --insecure 127.0.0.1:8000

shell: $(VENV)/.run ## Start the embedded cloud in mine/, and a shell that is connected to it.
	@$(BIN)/python -m local.shell mine

##@ Test it
.PHONY: test test-fast test-all test-exhaustive coverage test-examples browser fuzz

# `make test-examples` runs the examples, all of them.
SUITE = --ignore tests/examples $(SLOWEST) tests
# Most of a test's time is waiting for a socket, so a few more processes than cores share the suite, file
# by file. The slowest files come first: otherwise one process would be left with them at the end.
SLOWEST := tests/faults tests/docs tests/laboratory tests/admin tests/local tests/deploy
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Every AWS call of the suite is recorded here, for the last test to compare with the function's policy.
test test-all: export AWS_CALLS := $(CURDIR)/.pytest_cache/aws-calls.jsonl
POLICY := tests/deploy/test_policy.py::test_nothing_is_allowed_that_nothing_uses

test: $(VENV)/.dev browser ## Run the test suite, without the exhaustive matrices.
	@mkdir -p .pytest_cache && rm -f $(AWS_CALLS)
	$(PYTEST) -m "not exhaustive" $(SUITE)
	$(BIN)/python -m pytest -q $(POLICY)

# SQLite only, and few examples of each property.
FAST := tests/aggregation tests/connectors/intake tests/connectors/rounds tests/connectors/runtime

test-fast: $(VENV)/.dev ## Run the tests of the inner loop, without PostgreSQL, in under 40 s.
	$(PYTEST) -q --hypothesis-profile quick -k "not postgres" --ignore tests/aggregation/engine/test_memory.py --ignore tests/aggregation/round/test_distributed.py $(FAST)

test-exhaustive: $(VENV)/.dev browser ## Run what make test leaves out of the exhaustive matrices.
	$(PYTEST) -m exhaustive $(SUITE)

test-all: test test-exhaustive ## Run every test, the exhaustive matrices too.

# The tests whose code runs in their own process; the others add little, and their processes end in ways
# that lose what was measured.
COVERED := tests/aggregation tests/client tests/commands tests/connectors tests/costs tests/hostile tests/laboratory tests/mask_keeper tests/models_app tests/secure tests/test_*.py

coverage: $(VENV)/.dev ## Report the coverage of branches; it must not fall below the value in pyproject.toml.
	@rm -f .coverage*
	$(PYTEST) -m "not exhaustive" --cov --cov-report= $(COVERED)
	$(BIN)/python -m coverage report

test-examples: export EXAMPLES_PYTHON := $(CURDIR)/$(EXAMPLES)/bin/python
test-examples: export ORACLES_PYTHON := $(CURDIR)/$(ORACLES)/bin/python
test-examples: $(VENV)/.dev $(EXAMPLES)/.installed $(ORACLES)/.installed ## Run the example clients of every framework.
	$(BIN)/python -m pytest -q tests/examples

browser: $(VENV)/.dev ## Install a Chromium for the tests of the console, unless one is found.
	-@$(BIN)/python -m tests.admin.browsers

fuzz: $(VENV)/.dev ## Feed the parsers a million mutated files.
	$(BIN)/python -m fuzz

##@ Change it
.PHONY: install check format lock docs reference clean

install: $(VENV)/.dev ## Install what development needs into .venv.

# Settings for tools that only look at the code.
check: export DATABASE_URL := sqlite:///:memory:
check: export STORAGE_ROOT := /nonexistent
check: export SAM_CLI_TELEMETRY := 0
check: export AWS_DEFAULT_REGION := eu-central-1
check: $(VENV)/.dev scan docs ## Lint, types, imports, locks, settings, migrations, template, documentation.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.locks check
	$(BIN)/python manage.py check
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/sam validate --lint
	$(BIN)/sam validate --lint --template mask_keeper/template.yaml
	$(BIN)/cfn-lint infra/*.yaml

format: $(VENV)/.dev ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.dev $(LOCKER)/.installed ## Lock the dependencies of pyproject.toml: make lock UPGRADE=boto3, or UPGRADE='*'.
	$(BIN)/python -m tools.locks write --uv $(LOCKER)/bin/uv --upgrade $(if $(UPGRADE),'$(UPGRADE)')

docs: $(DOCS)/.installed ## Build the documentation into site/; a broken link is an error.
	$(DOCS)/bin/python -m sphinx -E -W --keep-going -q docs site
	@echo "site/index.html"

reference: $(VENV)/.dev ## Write the pages of docs/ that are generated from the code.
	$(BIN)/python -m local.reference

clean: ## Remove what was installed and built.
	rm -rf $(VENV) $(SCANNER) $(EXAMPLES) $(ORACLES) $(DOCS) $(LOCKER) site run .aws-sam .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

##@ Measure it
.PHONY: bench bench-learning bench-peers bench-fanout bench-sending bench-lossy bench-cold bench-scale bench-secure bench-simulation bench-tls

bench: $(VENV)/.dev ## Measure the engine; writes benchmarks/results.md.
	$(BIN)/python -m benchmarks

bench-peers: $(VENV)/.dev ## The same beside Flower and NVFlare, in an environment of their own.
	$(BIN)/python -m benchmarks --peers

bench-learning: $(VENV)/.dev ## Train under attack and with privacy; writes benchmarks/learning.md and learning-private.md.
	$(BIN)/python -m benchmarks.learning
	$(BIN)/python -m benchmarks.learning.private

bench-simulation: $(VENV)/.dev ## Simulate 100 clients beside Flower's simulation; writes benchmarks/simulation.md.
	$(BIN)/python -m benchmarks.simulation

bench-scale: $(VENV)/.dev ## Measure pages and commands beside 1,000,000 updates; writes benchmarks/scale.md.
	$(BIN)/python -m benchmarks.scale

bench-tls: $(VENV)/.dev ## Measure processor time for each GB received over TLS; writes benchmarks/tls.md.
	$(BIN)/python -m benchmarks.tls

bench-secure: $(VENV)/.dev ## Measure rounds of masked updates beside a mean; writes benchmarks/secure.md.
	$(BIN)/python -m benchmarks.secure

bench-fanout: $(VENV)/.dev ## Measure rounds over 1 to 8 functions, for half an hour; writes benchmarks/fanout.md.
	$(BIN)/python -m benchmarks.fanout

bench-sending: $(VENV)/.dev ## Measure rounds of compressed updates over a slow S3; writes benchmarks/sending.md.
	$(BIN)/python -m benchmarks.sending

bench-lossy: $(VENV)/.dev ## Deliver updates of a client behind a lossy proxy; writes benchmarks/lossy.md.
	$(BIN)/python -m benchmarks.lossy

bench-cold: $(VENV)/.dev ## Measure cold starts in the Lambda runtime emulator; writes benchmarks/cold.md.
	$(BIN)/python -m benchmarks.cold

##@ Deploy it
.PHONY: scan console build-AggregatorFunction build-ApiFunction build-MigrationFunction build-WorkerFunction build-MaskKeeperFunction

scan: $(SCANNER)/.installed ## Scan the templates for insecure settings with checkov.
	$(SCANNER)/bin/checkov --file template.yaml infra/*.yaml mask_keeper/template.yaml --framework cloudformation --compact --quiet --skip-download

console: $(VENV)/.run ## Run the console on this machine against a deployed stack: make console STACK=federation.
	@$(BIN)/python -m local.console $(STACK) $(ARGUMENTS)

# The processor of the function that is built: arm64 or x86_64.
ARCHITECTURE ?= arm64

# `sam build` calls these, once for each function.
build-AggregatorFunction build-ApiFunction build-MigrationFunction build-WorkerFunction:
	$(PYTHON) -m local.package --architecture $(ARCHITECTURE) --into "$(ARTIFACTS_DIR)"

build-MaskKeeperFunction:
	$(PYTHON) -m local.package --mask-keeper --architecture $(ARCHITECTURE) --into "$(ARTIFACTS_DIR)"

# The environments. What development needs includes what `make run` needs.

$(VENV)/.run: requirements/run.txt client/pyproject.toml
	@$(INSTALL) $(VENV) $< --editable client
	@touch $@

$(VENV)/.dev: requirements/dev.txt client/pyproject.toml
	@$(INSTALL) $(VENV) $< --editable client
	@touch $(VENV)/.run $@

$(DOCS)/.installed: requirements/docs.txt
	@$(INSTALL) $(DOCS) $<
	@touch $@

$(EXAMPLES)/.installed: requirements/examples.txt requirements/torch.txt client/pyproject.toml
	@$(INSTALL) $(EXAMPLES) requirements/examples.txt requirements/torch.txt --editable client
	@touch $@

$(ORACLES)/.installed: requirements/oracles.txt requirements/torch.txt
	@$(INSTALL) $(ORACLES) requirements/oracles.txt requirements/torch.txt
	@touch $@

$(SCANNER)/.installed: requirements/scan.txt
	@$(INSTALL) $(SCANNER) $<
	@touch $@

$(LOCKER)/.installed: requirements/lock.txt
	@$(INSTALL) $(LOCKER) $<
	@touch $@
