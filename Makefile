# Two commands do everything on a fresh Debian 12 or 13: `make demo` and `make test`. Run them as root or with sudo at hand.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PY := .venv/bin/python
PERSON := tools/as-person

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## install what is missing: Debian packages, the Python environment from its lock file, the Rust core
	@tools/setup-apt
	@tools/setup-python

.PHONY: image
image: setup ## build the business image (kept in a cache; a second run builds nothing)
	@tools/image

.PHONY: image-arm64
image-arm64: setup ## the same for 64-bit Arm
	@tools/image --arch arm64

.PHONY: demo
demo: image ## server, check-out, business VM and switcher on your own desktop; Ctrl-C suspends, the next run resumes
	@$(PERSON) $(PY) -m demo

.PHONY: demo-headless
demo-headless: image ## the same on an X server of its own, driven by keys and touches, checked on its pixels
	@$(PERSON) $(PY) -m demo.headless

.PHONY: demo-roam
demo-roam: image ## two devices, one lost: carried on at the other, the late one a branch, its key of no use, a wipe
	@tools/demo-roam

.PHONY: s3
s3: setup ## build the S3 server that the tests use (kept in a cache)
	@tools/setup-s3

.PHONY: test
test: image image-arm64 s3 ## every test: style, unit, golden, then those that boot a real guest
	@tools/test

.PHONY: test-quick
test-quick: setup s3 ## style, unit and golden tests alone: no VM, well under a minute
	@$(PERSON) $(PY) -m pytest -q tests/unit tests/golden -m "not root"

.PHONY: test-matrix-full
test-matrix-full: setup ## every step of every operation meets every failure (hours); goes on where it was stopped for the same code (AGAIN=1: anew)
	@$(PERSON) $(PY) -m tests.matrix $(if $(AGAIN),--again) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ONLY),--only '$(ONLY)')

.PHONY: model
model: setup ## leases, fencing and commits in every state they can reach; its traces replayed against the real server
	@$(PERSON) $(PY) -m pytest -q -rP tests/model -m "not root"

.PHONY: bench bench-images bench-boot bench-busy bench-switch bench-resume bench-footprint bench-vault bench-checkout
bench: bench-boot bench-resume bench-switch bench-footprint bench-busy bench-vault bench-checkout ## every bench; JSON, table and plot in out/bench/
bench-boot: image ## boot and resume against each other and against the same image under bare QEMU
	@$(PERSON) $(PY) -m bench.boot
bench-busy: image ## application launch on a busy host system, with and without our measures
	@$(PERSON) $(PY) -m bench.busy
bench-switch: image ## key press to the retained frame and to a fresh one, on pixels
	@$(PERSON) $(PY) -m bench.switch
bench-resume: image ## request to a usable desktop; a suspended one to its live screen and answering agent
	@$(PERSON) $(PY) -m bench.resume
bench-footprint: image ## seconds to the switcher's window; memory of switcher and agent
	@$(PERSON) $(PY) -m bench.footprint

bench-images: image ## bytes of a new version by layout and chunking, against casync, zsync and rsync
	@command -v casync zsyncmake >/dev/null || apt-get install -y -q casync zsync >/dev/null
	@$(PERSON) $(PY) -m bench.images

bench-vault: image ## the vault over NBD against qemu-nbd and nbdkit, qcow2, LUKS and raw; SQLite in a guest (QUICK=1: a look, not figures)
	@$(PERSON) $(PY) -m bench.vault $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

bench-checkout: image ## check-out, publishing, back ups and new versions against casync, zsync, rsync, restic, borg, QEMU (QUICK=1: a look)
	@for each in casync zsyncmake restic borg rsync; do command -v $$each >/dev/null || { apt-get install -y -q casync zsync restic borgbackup rsync >/dev/null; break; }; done
	@$(PERSON) $(PY) -m bench.checkout $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

.PHONY: specification
specification: ## write the last benches' figures into SPECIFICATION.md
	@PYTHONPATH=src:. $(PY) -m bench.specification

.PHONY: dist
dist: setup ## build the wheel and the .deb into out/dist/
	@tools/dist

.PHONY: dist-arm64
dist-arm64: setup ## the same for 64-bit Arm, built on this machine, into out/dist/arm64/
	@tools/dist --arch arm64

.PHONY: test-phone
test-phone: setup dist-arm64 ## the emulated phone: its harness by itself (builds the phone's system first, kept in a cache)
	@[ "$$(id -u)" != 0 ] || export TWOFOLD_BUILDS=$${TWOFOLD_BUILDS:-/var/cache/twofold}; \
	  PYTHONPATH=src:. PYTHONDONTWRITEBYTECODE=1 $(PY) -m phone.build
	@$(PERSON) $(PY) -m pytest -q -rP -m phone tests/vm

.PHONY: demo-phone
demo-phone: setup dist-arm64 ## the same on two emulated phones, on their own screens (slow: everything is translated); pictures in out/phone/
	@[ "$$(id -u)" != 0 ] || export TWOFOLD_BUILDS=$${TWOFOLD_BUILDS:-/var/cache/twofold}; \
	  PYTHONPATH=src:. PYTHONDONTWRITEBYTECODE=1 $(PY) -m phone.software
	@$(PERSON) $(PY) -m phone.demo

.PHONY: bench-phone
bench-phone: setup dist-arm64 ## Work on the emulated phone: switch, launch, a busy phone, resume, wake-ups, memory (ONLY='switch dark': parts; QUICK=1: a look)
	@[ "$$(id -u)" != 0 ] || export TWOFOLD_BUILDS=$${TWOFOLD_BUILDS:-/var/cache/twofold}; \
	  PYTHONPATH=src:. PYTHONDONTWRITEBYTECODE=1 $(PY) -m phone.software
	@$(PERSON) $(PY) -m bench.phone $(if $(QUICK),--quick) $(foreach each,$(ONLY),--only $(each))

.PHONY: test-dist
test-dist: dist ## install the wheel and the .deb, each into a clean Debian root
	@tools/test-dist

.PHONY: soak
soak: image ## the long runs: hundreds of switches at every gap, suspend and resume in a loop
	@TWOFOLD_SEEDS=3000 TWOFOLD_STRIDE=1 TWOFOLD_CASES=2000 cargo test --release --locked -p twofold-vault
	@$(PERSON) $(PY) -m pytest -q -m "not root" tests --soak

.PHONY: lock
lock: ## renew requirements.lock from pyproject.toml
	@.venv/bin/python -m uv --version >/dev/null 2>&1 || .venv/bin/pip install -q uv
	@.venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --upgrade --extra server --group dev pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove what was built in this folder; caches and workspaces elsewhere stay
	rm -rf out target build .venv
