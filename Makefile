# The commands of the project. Each installs the packages it needs (root or sudo;
# nothing is asked of the network when they are there), then builds into
# build/release. The programs are build/release/bin/tttd and build/release/bin/ttt.

BUILD := build/release
JOBS  ?= $(shell scripts/build_jobs)
# The model that `make run` serves, if not the bundled one, and further flags for it.
MODEL ?=
FLAGS ?=
# `make test LABEL=unit` runs the tests of one label; those that need a GPU, and
# the slow ones, are left out unless LABEL names them.
LABEL ?=
# `make lint ALL=1` looks at every source, not only at what changed since BASE.
BASE  ?= HEAD
ALL   ?=

export PATH := $(CURDIR)/build/tools:$(PATH)
unexport MAKEFLAGS MFLAGS

.DEFAULT_GOAL := help
.PHONY: help build demo test run bench format lint dist sanitize clean build-packages \
        test-packages lint-packages

help:
	@echo 'make demo     build, serve the bundled model, hold a conversation, stop'
	@echo 'make test     build, run the tests that need no GPU  (LABEL=unit|grpc|fuzz|dist|slow)'
	@echo 'make run      build, serve in the foreground         (MODEL=DIR FLAGS="--flag=value")'
	@echo 'make bench    build, time the engine and its ops   (MODEL=DIR FLAGS="--batch=1,8")'
	@echo 'make format   clang-format every source'
	@echo 'make lint     format, layering and clang-tidy        (ALL=1, or BASE=commit)'
	@echo 'make sanitize tests under sanitizers; clang on the locks  (half an hour, the first time)'
	@echo 'make dist     relocatable tree and tarball in build/dist'
	@echo 'make build    only build everything;  make clean: remove build/'

build-packages:
	@scripts/install_packages build

test-packages:
	@scripts/install_packages build test
	@scripts/fetch_promtool build/tools
	@scripts/python_env build/tools/python

lint-packages:
	@scripts/install_packages build lint

# Once: ninja configures again by itself when a CMake file changes.
CONFIGURE = test -f $(BUILD)/build.ninja || cmake --preset release

build: build-packages
	@$(CONFIGURE)
	cmake --build $(BUILD) -j $(JOBS)

# Builds the two programs alone: the tests are most of the work.
demo run: build-packages
	@$(CONFIGURE)
	cmake --build $(BUILD) -j $(JOBS) --target tttd ttt
	$(RUN_$@)

RUN_demo = scripts/demo $(BUILD)
RUN_run = $(BUILD)/bin/tttd $(if $(MODEL),--model=$(MODEL)) $(FLAGS)

# Configures anew, because a test looks for promtool then.
test: test-packages
	cmake --preset release
	cmake --build $(BUILD) -j $(JOBS)
	ctest --test-dir $(BUILD) --output-on-failure --no-tests=error -j $(JOBS) \
	  $(if $(LABEL),-L '^$(LABEL)$$',-LE '^(gpu|slow)$$')

bench: build-packages
	@$(CONFIGURE)
	cmake --build $(BUILD) -j $(JOBS) --target ttt_engine_bench ttt_op_bench
	$(BUILD)/bin/ttt_engine_bench --model=$(or $(MODEL),models/configs/ttt-linear-125m) $(FLAGS)
	$(BUILD)/bin/ttt_engine_bench --model=models/ttt-linear-14m-books --load_format=auto --mode=position
	$(BUILD)/bin/ttt_op_bench --benchmark_min_time=0.1

format: lint-packages
	@scripts/format --write

lint: lint-packages
	@scripts/format --check
	@$(CONFIGURE)
	cmake --build $(BUILD) -j $(JOBS) --target layering_test
	$(BUILD)/tests/layering_test
	scripts/tidy $(if $(ALL),--all,--since=$(BASE)) -j $(JOBS)

# What a change to threads, memory or parsing is held to, in short: the parsers,
# checks and engine with AddressSanitizer and UndefinedBehaviorSanitizer; what shares
# data among threads with ThreadSanitizer; clang's analysis of the locks.
sanitize: lint-packages
	cmake --preset asan
	cmake --build build/asan -j $(JOBS) --target tests_unit tests_fuzz bad_input_test
	ctest --preset asan --no-tests=error -j $(JOBS) -L '^(unit|fuzz)$$'
	ctest --preset asan --no-tests=error -R '^bad_input_test$$'
	cmake --preset tsan
	cmake --build build/tsan -j $(JOBS) --target tests_threads
	ctest --preset tsan --no-tests=error -j $(JOBS) -L '^threads$$'
	cmake --preset thread-safety
	cmake --build build/thread-safety -j $(JOBS) --target tttd ttt

dist: build-packages
	@$(CONFIGURE)
	cmake --build $(BUILD) -j $(JOBS) --target tttd ttt ttt_engine_bench ttt_op_bench
	scripts/dist $(BUILD) build/dist

clean:
	rm -rf build
