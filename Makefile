# make run: set up, compute, draw.   make paper: the paper's figures.   make systems: those of systems around it.
# make test: every check.   make drill: kills.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: run paper systems session test test-quick drill lint clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= mpich,test,slurm
CORES ?= 2
PYTEST = $(BIN)/python -m pytest --dist loadgroup -n
SNAKEMAKE = $(BIN)/snakemake --profile profiles/default --cores $(CORES)

# one thread a process: ranks share the machine, and bits depend on the number of threads
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# an environment that was moved, copied or lost its Python is set up again
ifneq ($(shell $(BIN)/python -c 'print(open("$(STAMP)").read().strip())' 2>/dev/null),$(CURDIR) $(EXTRAS))
$(shell rm -f $(STAMP))
endif

# whoever holds our own lock may remove the one that a killed Snakemake left behind
define only_one
exec 9>$(VENV)/.run.lock; \
flock --nonblock 9 || { echo 'make: another make run, paper or systems is at work here' >&2; exit 1; }; \
if ls .snakemake/locks/* >/dev/null 2>&1; then $(SNAKEMAKE) --unlock --quiet all; fi
endef

run: $(STAMP)
	@$(only_one); $(SNAKEMAKE)
	@printf '\nresults  %s\nfigures  %s\nreport   %s\n' \
	  '$(CURDIR)/results/<experiment>/<digest>.h5' '$(CURDIR)/results/figures/' '$(CURDIR)/results/report.html'

paper: $(STAMP)
	@$(only_one); $(SNAKEMAKE) paper
	@printf '\nfigures  %s\nreport   %s\n' '$(CURDIR)/results/paper/figures/' '$(CURDIR)/results/paper/report.html'

# those that train on mnist20 find it in $PPFL_DATA
systems: $(STAMP)
	@$(only_one); $(SNAKEMAKE) systems
	@printf '\nfigures  %s\nreport   %s\n' '$(CURDIR)/results/systems/figures/' '$(CURDIR)/results/systems/report.html'

# performed anew on a Slurm of its own, for the page about clusters; as root, with Slurm installed
session: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.slurm.session --write

# one process more than cores: tests of a Slurm, of workflows and of ranks wait for others much of their time
test: lint
	$(PYTEST) $$(($(CORES) + 1))

test-quick: lint
	$(PYTEST) $(CORES) -m 'not mpi and not workflow and not slurm and not slow'

# a hundred kills and more, at random moments: docs/surviving.md
drill: $(STAMP)
	$(BIN)/python -m tests.drill

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the stamp comes last: whatever was interrupted before it is done again
$(STAMP): constraints.txt pyproject.toml
	@$(find_python) \
	if ! { grep -qsF '$(CURDIR)/' $(BIN)/pip && $(BIN)/python -m pip --version >/dev/null 2>&1; }; then \
	  rm -rf $(VENV); \
	  "$$python" -m venv $(VENV) || { rm -rf $(VENV); \
	    echo 'make: python -m venv failed; on Debian or Ubuntu: apt-get install python3-venv' >&2; exit 1; }; \
	fi
	$(BIN)/python -m pip install --quiet -c constraints.txt torch setuptools
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[$(EXTRAS)]'
	@echo '$(CURDIR) $(EXTRAS)' > $@

define find_python
for python in python3.11 python3.12 python3.13 python3 none; do \
  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
done; \
if [ "$$python" = none ]; then \
  echo 'make: no Python 3.11 or newer found; on Debian or Ubuntu: apt-get install python3 python3-venv' >&2; exit 1; \
fi;
endef

clean:
	rm -rf $(VENV) build results logs .snakemake ppfl.egg-info \
	  .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
