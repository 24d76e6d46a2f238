#!/usr/bin/env bash
# A first session in curl: needs `make up` in another terminal. Usage: examples/walkthrough.sh [address]
set -euo pipefail
kato=${1:-http://127.0.0.1:8000}

step() { printf '\n# %s\n' "$*"; }
call() { curl --silent --show-error --fail-with-body "$@"; echo; }
json() { python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

if ! curl --silent "$kato/health" > /dev/null; then
  echo "no gateway at $kato: start one with \`make up\`, or name the address of another" >&2
  exit 1
fi

step "a session, with a node of its own"
session=$(curl --silent --show-error --fail-with-body "$kato/sessions" --json '{"user_id": "alice"}')
id=$(json "['session_id']" <<<"$session")
node=$(json "['external_url']" <<<"$session")
echo "session $id, its node at $node"

step "three events, learned as one pattern"
for symbol in a b c; do call "$kato/sessions/$id/observe" --json "{\"strings\": [\"$symbol\"]}"; done
call --request POST "$kato/sessions/$id/learn"

step "two of them again: what is this like, and what comes next?"
for symbol in a b; do call "$kato/sessions/$id/observe" --json "{\"strings\": [\"$symbol\"]}"; done
call "$kato/sessions/$id/predictions"

step "the same, asked of the node itself: no gateway, no header"
call "$node/predictions"

step "the short-term memory, then the end of the session"
call "$kato/sessions/$id/stm"
call --request DELETE "$kato/sessions/$id"
