# Two commands do everything, set-up included: make serve, make test.
# `make` alone lists them all.

PORT   ?= 8000
SITE   ?= site
PYTHON ?= python3
BIN    := .venv/bin

# The end of life that Material announces is known: see the README.
export NO_MKDOCS_2_WARNING = 1

# Where the source of a page can be edited, if REPO_URL names the repository.
export EDIT_URI = $(if $(REPO_URL),edit/main/docs/)

# The workers share compiled modules.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make serve    the site with live examples on 127.0.0.1, port PORT ($(PORT))"
	@echo "make test     run every program and check every claim"
	@echo "make build    the static site, into site/"
	@echo "make runtime  what runs the servers in the reader's browser, for the next build"
	@echo "make record   run every program and rewrite snippets/"
	@echo "make bench    measure, and rewrite snippets/measurements/ (QUICK=1: three minutes)"
	@echo "make lock     take the newest versions of everything into the lock files and programs"

serve: build
	@test -d docs/assets/runtime || echo "The pages have no Run here: make runtime builds what it runs (half a minute)"
	@PORT=$(PORT) SANIC_IGNORE_PRODUCTION_WARNING=1 $(BIN)/python -m examples.site.server

# A checksum of all that the site is made of: the files, their names, where it is published.
MADE_OF = { echo "$(SITE_URL) $(REPO_URL)"; \
  find docs examples mkdocs.yml publish requirements.txt snippets tests \
    \( -path docs/examples -o -path docs/snippets -o -name __pycache__ \) -prune -o -type f -print | \
  LC_ALL=C sort | xargs cksum; } | cksum

build: .venv/ready
	@if [ "$$(cat $(SITE)/.made-of 2>/dev/null)" = "$$($(MADE_OF))" ]; then \
	  echo "Nothing has changed since $(SITE)/ was built"; \
	else \
	  echo "Building $(SITE)/: about fifteen seconds"; \
	  $(MAKE) --silent pages; \
	fi

# The site, from packages that are there.
pages: published
	@made_of=$$($(MADE_OF)) && \
	rm -f $(SITE)/.made-of && \
	$(BIN)/mkdocs build --strict --site-dir $(SITE) && \
	$(BIN)/python -m publish.finish $(SITE) && \
	echo "$$made_of" > $(SITE)/.made-of

# The site publishes the programs and the recordings as files, beside its pages.
published:
	@rm -rf docs/examples docs/snippets
	@cp -R examples snippets docs

# The pages offer *Run here* where this has been built.
runtime: .venv/ready
	@$(MAKE) --silent docs/assets/runtime

docs/assets/runtime: publish/runtime.py tests/requirements.txt publish/requirements.txt $(shell find examples/runtime -type f)
	@$(BIN)/python -m publish.runtime $@

# Compiled once, before each worker would do so by itself.
test: .venv/tests
	@test -d tests/__pycache__ || $(BIN)/pytest -n 0 --collect-only -qq >/dev/null || true
	@$(BIN)/pytest

record: .venv/tests
	@$(BIN)/pytest --record

# As root, or after `ulimit -n 11000`; one contender runs after the other, on an idle machine.
bench: .venv/bench
	@QUICK=$(QUICK) $(BIN)/python -m tests.bench
	@$(BIN)/pytest --record -n 0 tests/test_measurements.py

COMPILE = $(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url --quiet --output-file

# What several of them have, they have in the same version.
lock: .venv/tests
	@$(COMPILE) requirements.txt --group site
	@$(COMPILE) tests/requirements.txt --group examples --group tests --constraint requirements.txt
	@$(COMPILE) tests/bench/requirements.txt --group bench \
	  --constraint requirements.txt --constraint tests/requirements.txt
	@$(COMPILE) publish/requirements.txt --group runtime
	@$(MAKE) --silent pins

# Programs name the versions of the lock in their first lines.
pins:
	@grep -ohE '^[a-z0-9-]+==[0-9][0-9a-z.]*' requirements.txt tests/requirements.txt | while read -r pin; do \
	  grep -rlE "\b$${pin%%==*}==" examples | xargs -r sed -i -E "s/\b$${pin%%==*}==[0-9][0-9a-z.]*/$$pin/"; \
	done

# Installs a lock file into .venv, and shows each package.
define install
{ $(BIN)/pip install --disable-pip-version-check --progress-bar off --require-hashes \
    --requirement $(1); echo "exit $$?"; } | \
while read -r word rest; do case $$word in \
  Collecting) n=$$((n + 1)); echo "  $$n. $${rest%% *}";; \
  Installing) echo "  Unpacking and compiling them: up to half a minute";; \
  exit) exit $$rest;; \
esac; done
endef

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "Python 3.11 or later is needed, and $(PYTHON) is %d.%d: make PYTHON=…" % v[:2])'
	@! [ -L .venv ] || { echo "This would empty what .venv links to. Remove the link." >&2; exit 1; }
	@echo "Setting up .venv, once: $$(grep -c '^[a-z]' requirements.txt) packages, about a minute"
	@$(PYTHON) -m venv --clear .venv
	@$(call install,requirements.txt)
	@touch $@

.venv/tests: .venv/ready tests/requirements.txt
	@echo "Adding what the tests need: about a minute"
	@$(call install,tests/requirements.txt)
	@touch $@

.venv/bench: .venv/tests tests/bench/requirements.txt
	@echo "Adding what the benchmark compares with"
	@$(call install,tests/bench/requirements.txt)
	@touch $@

.PHONY: help serve build pages published runtime test record bench lock pins
