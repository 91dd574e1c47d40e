# make demo · make test · make test-extended · make install · make lint · make docs
PYTHON ?= python3
VENV ?= .venv
DEMO ?= work_dirs/demo
SITE ?= work_dirs/site
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-extended install lint docs clean

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml hardnet_suite_mmcv.pth
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "needs Python 3.11, 3.12 or 3.13: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check torch torchvision -c requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# an interrupted or finished demo resumes
demo: install
	$(PY) tools/draw_shapes.py $(DEMO)/shapes --train 1000 --val 100 --size 224
	$(PY) tools/train.py configs/demo_ssd224_shapes.py --data-root $(DEMO)/shapes --work-dir $(DEMO) \
	  --precision auto --resume
	$(PY) tools/test.py configs/demo_ssd224_shapes.py $(DEMO) --data-root $(DEMO)/shapes \
	  --work-dir $(DEMO) --show-dir $(DEMO)/images
	$(PY) tools/plot.py $(DEMO)
	@echo "demo: images in $(DEMO)/images, plot in $(DEMO)/training.png, figures in $(DEMO)/metrics.json"

test: install lint
	@$(MAKE) -s node_modules/.package-lock.json || echo "test: npm ci failed: the tests of browser.html are skipped"
	$(PY) -m pytest -n 2

# what takes seconds each, or trains: about twice as long again
test-extended: install
	$(PY) -m pytest -n 2 -m "extended and not slow and not gpu"

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# the documentation site, in SITE/index.html; warnings are errors. Without npm, browser.html has no interactive part
docs: install
	@$(MAKE) -s node_modules/.package-lock.json || echo "docs: npm ci failed: browser.html has no interactive part"
	$(PY) -m sphinx -b html -W --keep-going -q docs $(SITE)
	@echo "docs: $(SITE)/index.html"

node_modules/.package-lock.json: package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

clean:
	rm -rf $(VENV) node_modules build dist .mypy_cache .pytest_cache .ruff_cache
