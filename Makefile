# `make run` watches a federation train through the function; `make test` runs the whole suite.
# Both install what they need into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

CLIENTS ?= 10
ROUNDS ?= 15
DB ?= sqlite
WORKERS ?= 3

# The engine's own threads share the processors, as on Lambda; more of BLAS' would only get in their way.
export OPENBLAS_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help install run admin test test-examples browser check format bench bench-peers bench-cold fuzz docs reference clean

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## Install what is deployed and what is developed with into .venv.

$(INSTALLED): requirements.txt requirements-dev.txt client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable client
	@touch $@

run: install ## Train a federation on this machine: make run CLIENTS=20 ROUNDS=30 DB=postgres.
	@$(BIN)/python -m local --clients $(CLIENTS) --rounds $(ROUNDS) --db $(DB)

admin: export DATABASE_URL := sqlite:///$(CURDIR)/run/database.sqlite3
admin: export STORAGE_ROOT := $(CURDIR)/run/bucket
admin: export BUCKET :=
admin: export QUEUE_URL :=
admin: export DJANGO_SUPERUSER_PASSWORD := admin
admin: install ## Open the admin on what `make run` left, with SQLite.
	@test -f run/database.sqlite3 || { echo "there is nothing to show yet: make run, with its default DB=sqlite, comes first"; exit 1; }
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py createsuperuser --noinput --username admin --email admin@localhost 2>/dev/null || true
	@echo "http://127.0.0.1:8000/ user admin, password admin; Ctrl-C ends it"
	@$(BIN)/python manage.py runserver --noreload --insecure 127.0.0.1:8000

browser: install ## Get a Chromium for the tests of the admin, unless there is one.
	@$(BIN)/python -m tests.admin.browsers

# Most of a test's time is waiting for a socket: a few processes share the suite, file by file. What they
# have seen the function call is put together for the last test, which compares it with its policy.
# They come first, or one process would be left with them in the end.
SLOWEST := tests/faults tests/docs tests/admin tests/local tests/deploy

test: export AWS_CALLS := $(CURDIR)/.pytest_cache/aws-calls.jsonl
test: install ## Run the whole test suite.
	-@$(BIN)/python -m tests.admin.browsers
	@mkdir -p .pytest_cache && rm -f $(AWS_CALLS)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(SLOWEST) tests
	$(BIN)/python -m pytest -q tests/deploy/test_policy.py::test_nothing_is_allowed_that_nothing_uses

EXAMPLES := .venv-examples

test-examples: export EXAMPLES_PYTHON := $(CURDIR)/$(EXAMPLES)/bin/python
test-examples: install $(EXAMPLES)/.installed ## Run the example clients of every framework, in an environment of their own.
	$(BIN)/python -m pytest -q tests/examples

$(EXAMPLES)/.installed: requirements-examples.txt client/pyproject.toml
	$(PYTHON) -m venv $(EXAMPLES)
	$(EXAMPLES)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(EXAMPLES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable client
	@touch $@

# Settings for tools that only look at the code.
check: export DATABASE_URL := sqlite:///:memory:
check: export STORAGE_ROOT := /nonexistent
check: export SAM_CLI_TELEMETRY := 0
check: export AWS_DEFAULT_REGION := eu-central-1
check: install scan docs ## Lint, types, direction of imports, settings, migrations, template, documentation.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py check
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/sam validate --lint

DOCS := .venv-docs

docs: $(DOCS)/.installed ## Build the documentation into site/; a broken link fails it.
	$(DOCS)/bin/python -m sphinx -E -W --keep-going -q docs site
	@echo "site/index.html"

reference: install ## Write the pages and drawings of docs/ that follow from the code.
	$(BIN)/python -m local.reference
	$(BIN)/python -m local.diagrams

$(DOCS)/.installed: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

format: install ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install ## Measure the chunk engine; writes benchmarks/results.md.
	$(BIN)/python -m benchmarks

bench-peers: install ## The same, beside Flower and NVFlare in an environment of their own.
	$(BIN)/python -m benchmarks --peers

bench-cold: install ## Measure cold starts in the Lambda runtime emulator; writes benchmarks/cold.md.
	$(BIN)/python -m benchmarks.cold

fuzz: install ## Feed the parsers a million mutated files.
	$(BIN)/python -m fuzz

# The processor of the function that is built: arm64 or x86_64.
ARCHITECTURE ?= arm64

SCANNER := .venv-scan

# What `sam build` calls, once for each function.
.PHONY: build-AggregatorFunction build-MigrationFunction scan
build-AggregatorFunction build-MigrationFunction:
	$(PYTHON) -m local.package --architecture $(ARCHITECTURE) --into "$(ARTIFACTS_DIR)"

scan: $(SCANNER)/.installed ## Scan the template for insecure settings (checkov, in an environment of its own).
	$(SCANNER)/bin/checkov --file template.yaml --framework cloudformation --compact --quiet --skip-download

$(SCANNER)/.installed: requirements-scan.txt
	$(PYTHON) -m venv $(SCANNER)
	$(SCANNER)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean: ## Remove what was installed and made.
	rm -rf $(VENV) $(SCANNER) $(EXAMPLES) $(DOCS) site run .aws-sam .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
