#!/usr/bin/env bash
# Fuzzes every reader of bytes from outside, each for FUZZ_SECONDS (600). Needs cargo, not a mount.
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$(readlink -f "$0")")/../../requirements.sh"
cd "$(dirname "$(readlink -f "$0")")/../../.."
require_rust
export FUZZ_SECONDS=${FUZZ_SECONDS:-600} FUZZ_SEED=${FUZZ_SEED:-1}
cargo test --release --locked --package vmdk-layout --test it mutated
cargo test --release --locked --package vmcryptfs-attest --test tpm mutated
cargo test --release --locked --test fuzz
cargo test --release --locked --package vmcryptfs-attest --test logs mutated
cargo test --release --locked --package vmcryptfs-services --lib mutated
