# forebay. `make` alone says what can be made; CONTRIBUTING.md says what for.

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
DESTDIR ?=
TRACE ?= examples_c/gpt_step.csv.gz
REPLAY_OPTIONS ?=
CFLAGS ?= -O2
CXXFLAGS ?= -O2

RUST_MIN := 1.92
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/release
LIBRARIES := $(RELEASE)/libforebay.so $(RELEASE)/libforebay.a $(RELEASE)/libforebay_preload.so
SOURCES := Cargo.toml Cargo.lock build.rs $(shell find src preload -name '*.rs') preload/Cargo.toml \
	$(wildcard src/report/page/*)
WARNINGS := -Wall -Wextra -Wpedantic
# Programs in build/ find the library beside themselves, by its SONAME.
LINK := -Lbuild/lib -lforebay -Wl,-rpath,'$$ORIGIN/lib'

.DEFAULT_GOAL := help
.PHONY: help run test test-python test-torch release examples install clean

# In the recipes that call cargo, not in front of them: `sudo make install` needs none.
define CHECK_RUST
@version=$$(cargo --version 2>/dev/null | cut -d' ' -f2); \
if [ -z "$$version" ]; then \
	echo 'forebay needs Rust $(RUST_MIN) or later, and there is no cargo: https://rustup.rs' >&2; exit 1; \
elif ! printf '%s\n' $(RUST_MIN) "$$version" | sort -V -C; then \
	echo "forebay needs Rust $(RUST_MIN) or later; this is $$version: rustup update" >&2; exit 1; \
fi
endef

help:
	@echo 'make run             a recorded training step on a pool and on malloc, side by side'
	@echo '                     (TRACE=file: another trace; REPLAY_OPTIONS="--rounds 3")'
	@echo 'make test            everything that is checked, tools it needs included'
	@echo 'make test-python     of that the Python package alone (TESTS=tests/python/test_cache.py)'
	@echo 'make test-torch      forebay under PyTorch, on a simulated CUDA runtime; installs PyTorch'
	@echo '                     (TORCH=2.13.0: one version; 5 GB each)'
	@echo 'make test-ray        forebay in workers of Ray; installs Ray'
	@echo 'make release         $(LIBRARIES)'
	@echo 'make examples        the programs of examples_c/, in build/'
	@echo 'make install         libraries, headers, pkg-config and CMake files'
	@echo '                     (PREFIX=$(PREFIX) LIBDIR=$(LIBDIR) DESTDIR=)'
	@echo 'make bench-pool      the pool beside other allocators'
	@echo 'make bench-cuda      GPU pools on the simulated driver; make bench is all of them'
	@echo 'make bench-cache     caches beside others'
	@echo 'make bench-prefetch  reading and copying ahead, beside the limit of the machine'
	@echo 'make bench-preload   programs under the preloaded library beside other allocators'
	@echo 'make bench-python    arrays of a pool in Python, beside those of numpy'
	@echo 'make bench-plan      plans: how high, how long they take (PLANS=folder TRACES=folder)'
	@echo 'make clean           removes what was made'

run: build/replay
	@build/replay $(REPLAY_OPTIONS) '$(TRACE)'

test:
	$(CHECK_RUST)
	scripts/install_test_tools.sh
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	$(MAKE) release
	if [ -e scripts/budget.sh ]; then scripts/budget.sh; fi
	scripts/preload_budget.sh
	scripts/test_python.sh
	cargo test --locked --workspace

# A part of `make test`; TESTS chooses files.
test-python: release
	scripts/test_python.sh $(TESTS)

# Its own wheels on the simulated runtime; TORCH chooses versions.
TORCH ?= 2.13.0 2.6.0
test-torch: release
	scripts/install_test_tools.sh
	scripts/test_torch.sh $(TORCH)

# Not a part of make test: Ray is large, and its agents take ports.
.PHONY: test-ray
test-ray: release
	scripts/test_ray.sh

release: $(LIBRARIES)

# touch: cargo leaves a library that did not change as old as it was.
$(LIBRARIES) &: $(SOURCES)
	$(CHECK_RUST)
	cargo build --release --locked -p forebay -p forebay-preload
	@touch $(LIBRARIES)

examples: build/pool build/pool_cpp build/replay build/cache build/plan build/prefetch build/monitor build/cuda_streams

build/lib/libforebay.so: $(RELEASE)/libforebay.so
	@mkdir -p $(@D)
	@ln -sf '$(abspath $(RELEASE))/libforebay.so' $@
	@ln -sf libforebay.so $@.0

build/%: examples_c/%.c include/forebay.h build/lib/libforebay.so
	$(CC) -std=c99 $(WARNINGS) $(CFLAGS) -Iinclude -o $@ $< $(LINK)

build/%_cpp: examples_c/%.cpp include/forebay.h include/forebay.hpp build/lib/libforebay.so
	$(CXX) -std=c++17 $(WARNINGS) $(CXXFLAGS) -Iinclude -o $@ $< $(LINK)

install: $(LIBRARIES)
	scripts/install.sh '$(RELEASE)' '$(PREFIX)' '$(LIBDIR)' '$(DESTDIR)'

clean:
	rm -rf build
	if [ -e '$(TARGET_DIR)' ]; then cargo clean; fi

include benches/bench.mk
