#!/usr/bin/env bash
# This crate's `run` beside two plain rdkafka loops, on a real Apache Kafka; see benches/broker.rs. Takes a few minutes.
#
# KAFKA_BOOTSTRAP_SERVERS   use this broker instead of one that lives as long as the bench
# RECORDS, ROUNDS           2,000,000 and 3 unless set
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

ensure_build_packages || say "going on without: if librdkafka does not build, this is why"
if [ -z "${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
    KAFKA_ENVELOPE_KAFKA_LIBS=$(bash scripts/kafka.sh)
    export KAFKA_ENVELOPE_KAFKA_LIBS
fi
# Built before the broker runs: compiling beside it would only take its memory.
cargo bench --bench broker --no-run
BROKER_HEAP=1g with_broker cargo bench --bench broker
