# Measurements. Included from the top Makefile, whose `release` builds target/release/libforebay.so.
#   make bench-pool [ROUNDS=5] [CASES='pair-*,mixed*'] [TRACES=folder]
#   make bench-cuda [TRACES=folder]
#   make bench-torch [TORCH=2.13.0]
#   make bench-cache [TRACES=folder]
#   make bench-prefetch
#   make bench-python
#   make bench-preload [ROUNDS=2] [CASES=fft,gcc]
#   make bench-preload-long [ROUNDS=3] [IDLE=10], half an hour, with PyTorch where that is installed
#   make bench-plan [PLANS=folder] [TRACES=folder] [SEED=1] [PLOT=file] [PATIENCE=1]
# each ends within about a minute (bench-plan: five), once built, and prints one JSON line per figure
# on stdout, a table on stderr (bench-pool).

BENCH_CC ?= $(CC)
BENCH_CFLAGS := -O2 -std=gnu11 -Wall -Wextra -Iinclude
ROUNDS ?= 5
CASES ?= *
TRACES ?=

.PHONY: bench bench-pool bench-cuda bench-torch bench-cache bench-plan bench-prefetch bench-preload bench-preload-long bench-python bench-peers

bench: bench-pool bench-cuda bench-torch bench-cache bench-plan bench-prefetch bench-preload bench-python

bench-pool: release bench-peers build/bench/pool_bench build/bench/trace_peaks
	python3 benches/pool/run.py --rounds $(ROUNDS) --cases '$(CASES)' --traces '$(TRACES)'

# On the simulated driver, for there the calls are counted; FOREBAY_TEST_GPU=1: on a real one. Peers
# with GPU memory of their own, RMM and PyTorch, need a GPU and are not among them.
bench-cuda:
	cargo bench --locked --bench cuda -- $(if $(TRACES),'$(abspath $(TRACES))')

# The peers are crates, in the bench's own lock file.
bench-cache:
	CARGO_TARGET_DIR='$(TARGET_DIR)/bench-cache' cargo run --release --locked --manifest-path benches/cache/Cargo.toml -- $(if $(TRACES),'$(abspath $(TRACES))')

# Beside limits that are measured in the same run; what others have is in the tests under PyTorch.
bench-prefetch:
	cargo bench --locked --bench prefetch

# Instances (id,lower,upper,size as CSV) and traces from folders, and generated instances.
bench-plan:
	cargo bench --locked --bench plan -- --seed $(or $(SEED),1) --patience $(or $(PATIENCE),1) $(if $(PLANS),--plans '$(abspath $(PLANS))') $(if $(TRACES),--traces '$(abspath $(TRACES))') $(if $(PLOT),--plot '$(abspath $(PLOT))')

bench-peers:
	scripts/install_peers.sh

build/bench/%: benches/pool/%.c benches/pool/allocator.c benches/pool/allocator.h include/forebay.h
	@mkdir -p $(@D)
	$(BENCH_CC) $(BENCH_CFLAGS) -o $@ $< benches/pool/allocator.c -lm -ldl -lpthread

# Under PyTorch, on the simulated runtime: hits only. Training on a GPU is in scripts/gpu_check.sh.
bench-torch: release
	scripts/test_torch.sh --run $(firstword $(TORCH)) benches/torch/run.py

# Programs that nothing here was written for. NumPy, pandas and scikit-learn in an environment of
# their own; PyTorch where its tests have one already; Redis unpacked, not installed.
PRELOAD_PYTHON ?= build/bench/python/bin/python
PRELOAD_TORCH ?= $(firstword $(wildcard .venv-torch-2.13.0/bin/python))
PRELOAD_RUN = $(PRELOAD_PYTHON) benches/preload/run.py --library build/bench/preload/libforebay_preload.so \
	--torch-python '$(PRELOAD_TORCH)' $(if $(filter-out *,$(CASES)),--cases '$(CASES)')

bench-preload: release bench-peers build/bench/preload $(PRELOAD_PYTHON)
	$(PRELOAD_RUN) --rounds $(or $(filter-out 5,$(ROUNDS)),2)

bench-preload-long: release bench-peers build/bench/preload $(PRELOAD_PYTHON) build/bench/redis
	$(PRELOAD_RUN) --rounds $(or $(filter-out 5,$(ROUNDS)),3) --idle $(or $(IDLE),10) --long

# The two libraries as they are installed, side by side.
build/bench/preload:
	@mkdir -p $@
	@ln -sf '$(abspath $(RELEASE))/libforebay_preload.so' '$(abspath $(RELEASE))/libforebay.so' $@
	@ln -sf libforebay.so $@/libforebay.so.0

build/bench/python/bin/python: benches/preload/requirements.txt
	python3 -m venv --clear build/bench/python
	$@ -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

# The distribution's, with a library that it needs; what cannot be had is named by the bench.
build/bench/redis:
	mkdir -p $@/unpacked
	-cd $@/unpacked && apt-get download redis-server redis-tools liblzf1 && for package in *.deb; do dpkg -x $$package .; done
	-cp -L $@/unpacked/usr/bin/redis-server $@/unpacked/usr/bin/redis-benchmark $@/unpacked/usr/lib/*/liblzf.so.1 $@

# Beside numpy's own arrays, in the environment of its version that the preloaded programs have too.
bench-python: release $(PRELOAD_PYTHON)
	PYTHONPATH=python FOREBAY_LIBRARY='$(abspath $(RELEASE))/libforebay.so' $(PRELOAD_PYTHON) benches/python/run.py
