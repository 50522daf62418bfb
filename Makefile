# Thin on purpose: the work is in scripts/.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PREFIX  ?= /usr/local
GO      := $(shell command -v go || echo /usr/local/go/bin/go)
FUZZTIME ?= 10s

.PHONY: all deps test lint fuzz bench demo demo-stop install uninstall clean

all: deps
	$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/kiln ./cmd/kiln

deps:
	@scripts/deps.sh build

test: all
	@scripts/deps.sh test
	@scripts/test.sh

lint: deps
	@scripts/lint.sh

fuzz: deps
	@scripts/deps.sh test
	@scripts/fuzz.sh $(FUZZTIME)

bench: all
	@scripts/deps.sh bench
	@$(GO) run ./test/bench $(BENCH)

demo: all
	@scripts/deps.sh demo
	@scripts/demo.sh

demo-stop:
	@scripts/demo-stop.sh

install: all
	install -D -m 755 bin/kiln $(DESTDIR)$(PREFIX)/bin/kiln
	install -D -m 644 packaging/kiln.socket $(DESTDIR)/lib/systemd/system/kiln.socket
	sed 's|@BIN@|$(PREFIX)/bin/kiln|' packaging/kiln.service.in > $(DESTDIR)/lib/systemd/system/kiln.service
	install -D -m 644 packaging/kiln.sysusers $(DESTDIR)/usr/lib/sysusers.d/kiln.conf
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/kiln completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/kiln
	bin/kiln completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_kiln
	bin/kiln completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/kiln.fish

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/kiln $(DESTDIR)/lib/systemd/system/kiln.socket $(DESTDIR)/lib/systemd/system/kiln.service \
		$(DESTDIR)/usr/lib/sysusers.d/kiln.conf $(DESTDIR)$(PREFIX)/share/bash-completion/completions/kiln \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_kiln $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/kiln.fish

clean:
	rm -rf bin
