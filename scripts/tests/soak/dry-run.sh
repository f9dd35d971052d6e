#!/usr/bin/env bash
# Tries a policy on what 10,000 hosts last sent, as an authority has it stored. Needs cargo, not a mount.
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$(readlink -f "$0")")/../../requirements.sh"
cd "$(dirname "$(readlink -f "$0")")/../../.."
require_rust
cargo test --release --locked --package vmcryptfs-services --lib -- --ignored --nocapture ten_thousand_stored_logs
