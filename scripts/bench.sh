#!/usr/bin/env bash
# This crate beside plain rdkafka, on a real Apache Kafka. Takes some minutes.
#
#   bash scripts/bench.sh [CONTEST…]  producers and consumers: all contests or these, see benches/broker/main.rs
#   bash scripts/bench.sh features    a consumer with the features metrics and otel beside one without
#   bash scripts/bench.sh app         the event app, see benches/app.rs
#   bash scripts/bench.sh cli         the program, see benches/cli.rs
#   bash scripts/bench.sh stream      the stream worker, see benches/stream.rs
#
# KAFKA_BOOTSTRAP_SERVERS   use this broker instead of one that lives as long as the bench
# RECORDS, ROUNDS           how many records, how many rounds
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

ensure_build_packages || say "going on without: if librdkafka does not build, this is why"
if [ -z "${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
    KAFKA_ENVELOPE_KAFKA_LIBS=$(bash scripts/kafka.sh)
    export KAFKA_ENVELOPE_KAFKA_LIBS
fi
case ${1:-} in
    app | cli | stream) which=$1 && shift && features=$which ;;
    features)
        which=broker features=metrics,otel
        BENCH_WITHOUT_FEATURES=$(cargo bench --bench broker --no-run --message-format=json |
            sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
        export BENCH_WITHOUT_FEATURES
        ;;
    *) which=broker features= ;;
esac
bench=(--bench "$which" --features "$features")
# Built before the broker runs: compiling beside it would only take its memory.
cargo bench "${bench[@]}" --no-run
BROKER_HEAP=1g with_broker cargo bench "${bench[@]}" -- "$@"
