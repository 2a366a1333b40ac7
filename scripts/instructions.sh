#!/usr/bin/env bash
# Instructions of what every message passes through, see benches/instructions.rs. No times, so it may run anywhere.
#
#   bash scripts/instructions.sh          compares with benches/instructions.txt
#   bash scripts/instructions.sh write    writes it
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

ensure_build_packages || say "going on without: if librdkafka does not build, this is why"
command -v valgrind >/dev/null || install_packages valgrind
# Incremental builds are cut in other pieces each time, which changes what is inlined.
CARGO_INCREMENTAL=0 cargo bench --profile dev --config scripts/instructions.toml --bench instructions -- "${1:-check}"
