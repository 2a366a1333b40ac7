#!/usr/bin/env bash
# Every test, on a real Apache Kafka and a real Redis: gets what is missing, starts one broker for all of them, runs
# `cargo test --all-features`. Arguments go to cargo test: `bash scripts/test.sh --test it -- broker::`.
#
# KAFKA_BOOTSTRAP_SERVERS            use this broker instead (tests that kill one still start their own)
# KAFKA_ENVELOPE_TESTS_REQUIRED=1    what cannot run here is a failure, not a remark
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

ensure_build_packages || say "going on without: if librdkafka does not build, this is why"

# Modules of tests/it that match a pattern, as the filters of the test binary.
modules_with() {
    find tests/it -name '*.rs' ! -path '*/support/*' ! -name main.rs -exec grep -lE "$1" {} + |
        sed 's:^tests/it/::; s:/mod\.rs$::; s:\.rs$::; s:/:\:\::g; s:$:\:\::' | sort
}

# Tests wait for brokers most of the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) * 3 / 2))}

needs_own='(^|[^A-Za-z])(Broker|Secured)::start|secured_broker'
not_run=() whys=()
# leave_out WHY PATTERN: the modules that match cannot run.
leave_out() {
    local modules
    mapfile -t modules < <(modules_with "$2")
    not_run+=("${modules[@]}")
    whys+=("$1, which ${modules[*]} need")
}

if libs=$(bash scripts/kafka.sh); then
    export KAFKA_ENVELOPE_KAFKA_LIBS=$libs
else
    pattern=$needs_own
    [ -n "${KAFKA_BOOTSTRAP_SERVERS:-}" ] || pattern="$needs_own|shared_broker"
    leave_out "there is no Apache Kafka to start (see above)" "$pattern"
fi
ensure_redis || leave_out "there is no redis-server to start (see above)" 'Redis::start'

if [ ${#not_run[@]} = 0 ]; then
    with_broker cargo test --all-features "$@"
    exit
fi
if [ "${KAFKA_ENVELOPE_TESTS_REQUIRED:-}" = 1 ]; then
    for why in "${whys[@]}"; do say "FAILED: $why, and KAFKA_ENVELOPE_TESTS_REQUIRED=1 lets no test be left out"; done
    exit 1
fi

mapfile -t not_run < <(printf '%s\n' "${not_run[@]}" | sort -u)
run=cargo
[ -z "${libs:-}" ] || run="with_broker cargo"
skips=() dashes=--
for module in "${not_run[@]}"; do skips+=(--skip "$module"); done
for argument in "$@"; do [ "$argument" != -- ] || dashes=; done
status=0
$run test --all-features "$@" ${dashes:+"$dashes"} "${skips[@]}" || status=$?
say "NOT RUN: ${not_run[*]}"
for why in "${whys[@]}"; do say "because $why. What passed above proves nothing about it."; done
exit "$status"
