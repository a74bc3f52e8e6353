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

# Ten workers share compiled modules.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make serve    the site with live examples on 127.0.0.1, port PORT ($(PORT))"
	@echo "make test     run every program and check every claim"
	@echo "make build    the static site, into site/"
	@echo "make runtime  what runs the servers in the reader's browser, for the next build"
	@echo "make record   run every program and rewrite snippets/"
	@echo "make bench    measure, and rewrite snippets/measurements/ (QUICK=1: three minutes)"
	@echo "make lock     take the newest versions of everything into requirements.txt and programs"

serve: build
	@test -d docs/assets/runtime || echo "The pages have no Run here: make runtime builds what it runs (half a minute)"
	@PORT=$(PORT) SANIC_IGNORE_PRODUCTION_WARNING=1 $(BIN)/python -m examples.site.server

build: .venv/ready
	@$(MAKE) --silent pages

# The site, from packages that are there.
pages: published
	@$(BIN)/mkdocs build --strict --site-dir $(SITE)
	@$(BIN)/python -m publish.finish $(SITE)

# The site publishes the programs and the recordings as files, beside its pages.
published:
	@rm -rf docs/examples docs/snippets
	@cp -R examples snippets docs

# The pages offer *Run here* where this has been built.
runtime: .venv/ready
	@$(MAKE) --silent docs/assets/runtime

docs/assets/runtime: publish/runtime.py requirements.txt publish/requirements.txt $(shell find examples/runtime -type f)
	@$(BIN)/python -m publish.runtime $@

test: .venv/ready
	@$(BIN)/pytest

record: .venv/ready
	@$(BIN)/pytest --record

# As root, or after `ulimit -n 11000`; one contender runs after the other, on an idle machine.
bench: .venv/bench
	@QUICK=$(QUICK) $(BIN)/python -m tests.bench
	@$(BIN)/pytest --record -n 0 tests/test_measurements.py

.venv/bench: .venv/ready tests/bench/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes \
	  --requirement tests/bench/requirements.txt
	@touch $@

lock: .venv/ready
	@$(BIN)/uv pip compile --group site --group examples --group tests \
	  --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --quiet --output-file requirements.txt
	@$(BIN)/uv pip compile --group bench --constraint requirements.txt \
	  --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --quiet --output-file tests/bench/requirements.txt
	@$(BIN)/uv pip compile --group runtime \
	  --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --quiet --output-file publish/requirements.txt
	@$(MAKE) --silent pins

# Programs name the versions of the lock in their first lines.
pins:
	@grep -oE '^[a-z0-9-]+==[0-9][0-9a-z.]*' requirements.txt | while read -r pin; do \
	  grep -rlE "\b$${pin%%==*}==" examples | xargs -r sed -i -E "s/\b$${pin%%==*}==[0-9][0-9a-z.]*/$$pin/"; \
	done

.venv/ready: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "Python 3.11 or later is needed, and $(PYTHON) is %d.%d: make PYTHON=…" % v[:2])'
	@echo "Setting up .venv (once)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes \
	  --requirement requirements.txt
	@touch $@

.PHONY: help serve build pages published runtime test record bench lock pins
