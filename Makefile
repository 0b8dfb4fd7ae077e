# make demo      distils the small teacher that comes with the repository and writes a report
# make test      checks formatting, vets and tests everything
# make interop   proves against PyTorch and diffusers, which it installs, that each side reads and draws the other's files
# make fuzz      fuzzes every reader of files for some seconds
# make attack    kills runs, fills their disks, cuts their power and injects errors, and writes train/rundir/ATTACKS.md; needs strace
#
# Needs: Go, a C compiler, and python3 with pip (to fetch the XLA CPU plugin, and PyTorch for `make interop`, once).

GO     ?= go
PYTHON ?= python3
RUN    ?= runs/demo

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
# Version control is asked above, by git: Go's own stamping fails in a checkout that another user owns.
GOBUILD := -buildvcs=false
LDFLAGS := $(if $(VERSION),-ldflags "-X main.version=$(VERSION)")

export CGO_ENABLED = 1
# Plugins come from `make setup` alone.
export GOMLX_NO_AUTO_INSTALL = 1

.PHONY: help tools setup build format vet test fuzz attack interop demo clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

tools:
	@command -v $(GO) >/dev/null || { echo "make: Go is missing: see https://go.dev/dl" >&2; exit 1; }
	@command -v "$$($(GO) env CC)" >/dev/null || { echo "make: a C compiler is missing (Debian and Ubuntu: apt-get install gcc libc6-dev)" >&2; exit 1; }

# Fetches the XLA CPU plugin into the user's cache folder; does nothing when it is there.
setup:
	@if command -v $(PYTHON) >/dev/null; then \
		$(PYTHON) scripts/fetch_plugin.py; \
	else \
		echo "make: python3 is missing, so the XLA CPU plugin cannot be fetched: the pure-Go backend will be used, which is many times slower" >&2; \
	fi

build: tools
	$(GO) build $(GOBUILD) $(LDFLAGS) -o bin/fewstep ./cmd/fewstep

format:
	@files=$$(find . -name '*.go' -not -path './.*' -not -path './runs/*' -exec gofmt -l {} +); \
	if [ -n "$$files" ]; then echo "make: run gofmt -w on:" >&2; echo "$$files" >&2; exit 1; fi

vet: tools
	$(GO) vet $(GOBUILD) ./...

test: setup format vet
	$(GO) test $(GOBUILD) -timeout 15m ./...

# Package and target. FUZZTIME is for each of them; a number of inputs, because Go sometimes fails a target whose time runs out
# in the middle of one ("context deadline exceeded").
FUZZ     = cluster:FuzzExpandHosts configs:FuzzParse model/weights:FuzzOpen model/weights:FuzzIndex model/lora:FuzzParseKey model/lora:FuzzRead \
	model/prediction:FuzzOfScheduler model/lora:FuzzConfig \
	model/ldm:FuzzCheckpoint model/hub:FuzzParse model/clip:FuzzEncode model/clip:FuzzTokenizerFile \
	model/unet:FuzzParseConfig data/images:FuzzDecode data/source:FuzzSegment data/scenes:FuzzOpen eval:FuzzReadRows eval:FuzzCOCOCaptions \
	eval/stats:FuzzReadNPZ internal/xla:FuzzParseRecording internal/xla:FuzzWithAliases model/inception:FuzzStateDict train/monitor:FuzzValues
FUZZTIME ?= 10000x

fuzz: tools
	@for f in $(FUZZ); do \
		echo "fuzz $$f"; \
		$(GO) test $(GOBUILD) ./$${f%%:*} -run '^$$' -fuzz "^$${f##*:}\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x || exit 1; \
	done

attack: tools
	$(GO) run $(GOBUILD) ./train/rundir/attack > train/rundir/ATTACKS.md.new && mv train/rundir/ATTACKS.md.new train/rundir/ATTACKS.md

interop: setup tools
	python="$$($(PYTHON) scripts/interop_python.py)" && FEWSTEP_INTEROP_PYTHON="$$python" $(GO) test $(GOBUILD) -count=1 -timeout 30m -v ./interop

# The report that a run ends with has no times; the command report adds them.
# Without XLA the demo does the same work in pure Go, in counts so small that it teaches little.
demo: setup build
	@config=configs/mini/demo.yaml; \
	if bin/fewstep doctor --json 2>/dev/null | grep -q '"kind": "go"'; then \
		config=configs/mini/demo-go.yaml; \
		echo "make: XLA is not there: the demo walks the ladder in pure Go with few samples, which shows the work and not the result" >&2; \
	fi; \
	bin/fewstep run $$config --dir $(RUN) && bin/fewstep report $(RUN) >/dev/null && echo "the report is $(CURDIR)/$(RUN)/report/index.html"

clean:
	rm -rf bin
