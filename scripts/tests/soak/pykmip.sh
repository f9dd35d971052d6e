#!/usr/bin/env bash
# What takes long with PyKMIP servers: a thousand components under two hundred keys. Needs cargo.
set -euo pipefail
# shellcheck source=scripts/requirements.sh
source "$(dirname "$(readlink -f "$0")")/../../requirements.sh"
cd "$(dirname "$(readlink -f "$0")")/../../.."
require_rust
require_tools 'openssl|openssl|makes certificates' 'pykmip-server|python3-pykmip|is the key server'
cargo test --release --locked --test kmip -- --ignored --nocapture
