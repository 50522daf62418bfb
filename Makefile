# Thin on purpose: the work is in scripts/.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PREFIX  ?= /usr/local
GO      := $(shell command -v go || echo /usr/local/go/bin/go)
FUZZTIME ?= 10s
SOAK    ?= 10m
IDLE    ?= 21000
SUITE   ?= bookworm

.PHONY: all deps test lint docs man fuzz soak idle vm bench demo demo-stop fresh install uninstall clean

all: deps
	$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/kiln ./cmd/kiln

deps:
	@scripts/deps.sh build

test: all
	@scripts/deps.sh test
	@scripts/test.sh

lint: deps
	@scripts/lint.sh

docs: deps
	@$(GO) run ./test/docs

man: deps
	@$(GO) run ./test/docs -man bin/man

fuzz: deps
	@scripts/deps.sh test
	@scripts/fuzz.sh $(FUZZTIME)

bench: all
	@scripts/deps.sh bench
	@$(GO) run ./test/bench $(BENCH)

soak: all
	@scripts/deps.sh test
	@KILN_SOAK=$(SOAK) $(GO) test -count=1 -timeout 0 -v ./test/soak

idle: all
	@KILN_IDLE=$(IDLE) $(GO) test -count=1 -run TestIdleConnections -v ./test/faults

vm:
	@scripts/vm.sh $(SUITE)

fresh:
	@scripts/fresh.sh $(SUITE) demo demo-stop test

demo: all
	@scripts/deps.sh demo
	@scripts/demo.sh

demo-stop:
	@scripts/demo-stop.sh

UNITS = kiln.socket kiln.service kiln-instances.service

# Run-time packages are the host's business with DESTDIR; without, all that the
# units need is put in place at once.
install: all
	install -D -m 755 bin/kiln $(DESTDIR)$(PREFIX)/bin/kiln
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for unit in $(UNITS); do \
		sed 's|@BIN@|$(PREFIX)/bin/kiln|' packaging/$$unit.in > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit || exit 1; \
	done
	install -D -m 644 packaging/kiln.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/kiln.conf
	install -D -m 644 packaging/kiln.sysctl $(DESTDIR)$(PREFIX)/lib/sysctl.d/60-kiln.conf
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/kiln completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/kiln
	bin/kiln completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_kiln
	bin/kiln completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/kiln.fish
	@[ -n "$(DESTDIR)" ] || scripts/postinstall.sh $(PREFIX)

uninstall:
	@[ -n "$(DESTDIR)" ] || scripts/preuninstall.sh $(PREFIX) $(UNITS)
	cd $(DESTDIR)$(PREFIX) && rm -f bin/kiln $(UNITS:%=lib/systemd/system/%) lib/sysusers.d/kiln.conf \
		lib/sysctl.d/60-kiln.conf share/bash-completion/completions/kiln share/zsh/site-functions/_kiln \
		share/fish/vendor_completions.d/kiln.fish
	@[ -n "$(DESTDIR)" ] || ! [ -d /run/systemd/system ] || systemctl daemon-reload

clean:
	rm -rf bin
