# Two commands: `make up` and `make test`. `make help` lists the rest.
# INVENTORY=ha deploys inventories/production as containers instead of inventories/local.
# PYTHON names another Python (3.11 to 3.13), CA_BUNDLE another CA bundle than the machine's own.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SCENARIOS := $(notdir $(patsubst %/,%,$(dir $(wildcard molecule/*/molecule.yml))))
# One unpacks a distribution, the other deploys two releases: both take long.
APART := upgrade_host upgrade_toolkit

.PHONY: help
help: ## List what make can do
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# Asked before minutes of preparation.
.PHONY: fleet-is-mine
fleet-is-mine: docker
	@scripts/fleet mine

.PHONY: up
up: fleet-is-mine venv ## Deploy the hosts of inventories/local as containers on this machine and prove that they execute tasks
	@scripts/images host:trixie
	@scripts/fleet up

.PHONY: check
check: venv ## Say all that is wrong with an inventory, and connect to no host (INVENTORY=production, or a path)
	@ansible-playbook --inventory $(if $(wildcard inventories/$(INVENTORY)/.),inventories/$(or $(INVENTORY),local),$(INVENTORY)) playbooks/check.yml

.PHONY: down
down: ## Remove the hosts of `make up` with all that belongs to them
	@scripts/fleet down

.PHONY: compose-up
compose-up: docker ## Start the stack of compose.yaml: Redis, PostgreSQL, supervised workers, beat
	@scripts/compose up

.PHONY: compose-demo
compose-demo: docker ## Send it a load that rises and falls and show how the workers follow
	@scripts/compose demo

.PHONY: compose-burst
compose-burst: docker ## Send it more at once than its workers can do in time, and show what limits them
	@scripts/compose demo --burst

.PHONY: compose-stop
compose-stop: docker ## Stop the stack and keep its data
	@scripts/compose stop

.PHONY: compose-down
compose-down: docker ## Remove the stack with its data
	@scripts/compose down

# The longest come first, the shortest last: all lanes are busy until the end. What needs CPU to scale comes after unit.
LONGEST := unit deploy take_over beat postgres ssh_offline versions compose scaling workers monitoring postgres_ha own_project default roles redis
SHORTEST := redis_restore queues lint
.PHONY: test
test: test-setup ## Run everything: lint, unit tests, role tests, every Molecule scenario
	@scripts/test $(LONGEST) $(filter-out $(LONGEST) $(SHORTEST) $(APART),$(SCENARIOS)) $(SHORTEST)

.PHONY: test-fast
test-fast: test-setup ## Run the most telling checks in under ten minutes: lint, unit tests, two scenarios
	@scripts/test unit lint redis_restore queues

.PHONY: lint
lint: venv ## Check style, types, prose and shell scripts
	@scripts/lint

.PHONY: unit
unit: venv docker browser ## Run the tests of app/tasks and app/autoscaler on real servers
	@scripts/images services:bookworm
	@scripts/test unit

.PHONY: versions
versions: venv docker ## Run all tests of the workers with each older version of Celery (VERSION=5.4: with one)
	@scripts/images services:bookworm
	@scripts/versions all

.PHONY: versions-newest
versions-newest: venv docker ## Run them with the newest versions of Celery, kombu and redis-py, pre-releases too
	@scripts/images services:bookworm
	@scripts/versions newest

.PHONY: roles
roles: venv docker ## Run the tests of the roles that need no host
	@scripts/images host:trixie used-host:trixie services:bookworm
	@scripts/test roles

.PHONY: compose
compose: venv docker ## Run the tests of the stack of compose.yaml
	@scripts/test compose

.PHONY: $(SCENARIOS)
$(SCENARIOS): venv docker images ## Run one Molecule scenario
	@molecule test -s $@

.PHONY: break-steps
break-steps: venv docker images ## Break each step of each role once on hosts in use, and restart everything each time
	@BREAK_STEPS=all molecule test -s take_over

.PHONY: soak
soak: venv docker ## Look for broken promises for hours (HOURS=8 SEED=7): random tasks, random faults
	@scripts/images services:bookworm
	@scripts/soak

.PHONY: conformance
conformance: venv docker ## Run Celery's own integration tests against our workers and against plain ones; compare
	@scripts/images services:bookworm
	@PYTHONPATH=tests python tests/conformance/run.py

.PHONY: real-projects
real-projects: venv docker ## Deploy Weblate, pretix and Superset by docs/examples, and count their tasks (PROJECT=weblate: one)
	@scripts/images host:bookworm host:trixie used-host:trixie
	@PYTHONPATH=tests python tests/real_projects/run.py $(PROJECT)

.PHONY: bench
bench: bench-workers bench-scaling bench-replay bench-law bench-plays ## Run all benchmarks

.PHONY: bench-workers
bench-workers: venv docker ## Measure our workers beside plain Celery's
	@scripts/images services:bookworm
	@PYTHONPATH=tests python benchmarks/workers.py

.PHONY: bench-scaling
bench-scaling: venv docker ## Measure the supervisor beside Celery's own autoscaling; draw docs/burst.svg
	@scripts/images services:bookworm
	@PYTHONPATH=tests python benchmarks/scaling.py

.PHONY: bench-replay
bench-replay: venv docker ## Measure how far a replay is off what five real fleets did
	@scripts/images services:bookworm
	@PYTHONPATH=tests python benchmarks/replay.py

.PHONY: bench-law
bench-law: venv ## Measure the control law beside those of KEDA and Airflow, in a simulation
	@PYTHONPATH=tests python benchmarks/control_law.py

.PHONY: bench-plays
bench-plays: venv docker ## Measure what a run of the playbooks that changes nothing costs
	@scripts/images host:trixie
	@python benchmarks/plays.py

.PHONY: venv
venv:
	@scripts/venv

.PHONY: docker
docker:
	@scripts/docker

.PHONY: browser
browser:
	@scripts/browser

# Side by side: each waits for the network or for one CPU.
.PHONY: test-setup
test-setup:
	@$(MAKE) --no-print-directory --jobs=3 venv browser images

.PHONY: images
images: docker ## Build the images of the test hosts
	@scripts/images host:bookworm used-host:bookworm services:bookworm host:trixie used-host:trixie

.PHONY: docs
docs: venv ## Generate docs/reference and the tables of the role READMEs from the code
	@scripts/role-docs
	@scripts/reference-docs

.PHONY: compose-files
compose-files: venv ## Write the files of compose/ that come from the templates of the roles
	@ansible-playbook --inventory localhost, playbooks/containers/compose-files.yml

.PHONY: lock
lock: venv ## Pin the newest allowed requirements
	@scripts/lock

.PHONY: release
release: venv docker ## Build wheel, collection and images of the version in VERSION (DRY_RUN=1: of any checkout, no images)
	@python scripts/release $(if $(DRY_RUN),--dry-run)

.PHONY: clean
clean: ## Remove the hosts, the images, the caches and .venv
	@scripts/fleet clean
