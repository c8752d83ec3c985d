# Tiffin: everything here needs Go and make only; compose targets need Docker.
SHELL       := /bin/sh
.DEFAULT_GOAL := help
SERVICES    := gateway auth-service order-service payment-service notification-service
MODULES     := pkg $(SERVICES) deploy $(wildcard deploy/bench)
ALL_MODULES := $(MODULES) deploy/tools
COMPOSE     ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
# make's own child: what ends make, ends it, which "go run" would keep from it.
program      = go -C deploy build -o ../.tiffin/make/$(1) ./$(1) && exec .tiffin/make/$(1)
TARGET      ?= local
BENCH       ?= messaging
each         = @set -e; for m in $(1); do echo "--- $$m"; (cd $$m && GOWORK=off $(2)); done

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## --- run ---

.PHONY: demo run rows clean-data
demo: ## start everything and play a customer; ONCE=1 ends afterwards
	@$(call program,local) demo
run: ## start everything and stay up; SKIP=order-service, REPLICAS=2, KAFKA=real
	@$(call program,local) run
rows: ## print an order's rows and records: make rows ORDER=<id>
	@$(call program,local) rows "$(ORDER)"
clean-data: ## remove the local runner's data
	@$(call program,local) clean-data

.PHONY: up down reset
up: ## build and start with Docker Compose
	$(COMPOSE) up --build -d --wait
down: ## stop Compose, keep the data
	$(COMPOSE) down
reset: ## stop Compose and delete its data
	$(COMPOSE) down -v

## --- check ---

.PHONY: test e2e race vet lint fmt tidy vulncheck build bench chaos kafka storm fuzz
test: ## all tests
	$(call each,$(MODULES),go test ./...)
e2e: ## black-box tests through :5000; TARGET=local, compose or a URL
	cd deploy && GOWORK=off TARGET=$(TARGET) go test -tags e2e -count=1 -parallel 8 -timeout 20m ./e2e/
chaos: ## break everything under load, by SEED=; DURATION=20s, SEEDS=20, RATE=40
	@$(call program,chaos)
kafka: ## messaging tests against Apache Kafka, needs Java and Maven; KAFKA_NODES=3
	cd pkg && GOWORK=off KAFKA=real go test -count=1 -timeout 40m ./kafkaserver ./kafka ./outbox
storm: ## the outbox in trouble, until so many events: EVENTS=100000 SEED=1
	cd pkg && GOWORK=off OUTBOX_STORM=$(or $(EVENTS),100000) OUTBOX_STORM_SEED=$(SEED) go test -count=1 -timeout 2h -v -run 'TestStorm$$' ./outbox
fuzz: ## the gateway's parsers against net/http's: FUZZTIME=1m
	cd gateway && GOWORK=off go test -run '^$$' -fuzz FuzzRequests -fuzztime $(or $(FUZZTIME),1m) ./internal/edge
	cd gateway && GOWORK=off go test -run '^$$' -fuzz FuzzResponses -fuzztime $(or $(FUZZTIME),1m) ./internal/http1
bench: ## measure: BENCH=messaging, saga, gateway or growth; QUICK=1, ARGS='-rounds 9'
	cd deploy/bench && GOWORK=off go run . $(BENCH) $(ARGS)
race: ## all tests under the race detector
	$(call each,$(MODULES),go test -race ./...)
build: ## compile every module on its own
	$(call each,$(MODULES),go build ./...)
vet: ## go vet, tidy modules, formatted files
	$(call each,$(MODULES),go vet -tags e2e ./...)
	$(call each,$(ALL_MODULES),go mod tidy -diff)
	@test -z "$$(gofmt -l $(MODULES))" || { gofmt -l $(MODULES); echo 'run make fmt'; exit 1; }
lint: ## golangci-lint
	$(call each,$(MODULES),go tool -modfile=$(CURDIR)/deploy/tools/go.mod golangci-lint run --allow-parallel-runners --build-tags e2e --config $(CURDIR)/.golangci.yml ./...)
vulncheck: ## known vulnerabilities in what is used
	$(call each,$(MODULES),go tool -modfile=$(CURDIR)/deploy/tools/go.mod govulncheck ./...)
fmt: ## format
	gofmt -w $(MODULES)
tidy: ## go mod tidy everywhere
	$(call each,$(ALL_MODULES),go mod tidy)
	go work sync
