# Every target sets up what it needs in .venv, with pip. PYTHON chooses the interpreter (3.10 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart ablation-demo test legacy test-legacy fidelity benchmarks components site format clean

quickstart: $(VENV)/.base
	$(BIN)/dqlab train --gin gin/quickstart.gin

# The number of diffusion steps, small: 4 values x 3 seeds on the set that ships with dqlab, then the report.
ablation-demo: $(VENV)/.base
	$(BIN)/dqlab ablate --grid ablations/steps.gin --gin gin/quickstart.gin --seeds 0 1 2 --steps 1500 \
	    --set Training.eval_every=500 Training.log_every=250 Training.execution=eager --out runs/ablation-demo

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal -m "not legacy"

# D4RL's own stack on MuJoCo 2.1.0, in .venv-legacy. LEGACY_PYTHON chooses its interpreter (3.8 to 3.11).
legacy:
	@scripts/legacy.sh .venv-legacy

test-legacy: $(VENV)/.dev legacy
	$(BIN)/pytest -n 2 --dist worksteal -m legacy tests/legacy

fidelity: $(VENV)/.dev legacy
	$(BIN)/python scripts/fidelity.py --episodes 6 --out docs/fidelity.md

benchmarks: $(VENV)/.dev
	$(BIN)/pytest benchmarks/ --quick --mlflow
	$(BIN)/python benchmarks/history.py compare

components: $(VENV)/.base
	$(BIN)/dqlab list --markdown > docs/.components.md
	mv docs/.components.md docs/components.md

site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "dqlab needs Python 3.10 or later (make PYTHON=python3.11 ...)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No virtual environment: apt-get install python3-venv"; exit 1; }

$(VENV)/.base: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[video]'
	@touch $@

$(VENV)/.dev: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[robotics,ogbench,minari,video,collect,ray,slurm,export,bench-jax,dev]'
	@touch $@ $(VENV)/.base

clean:
	rm -rf $(VENV) .venv-legacy .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
