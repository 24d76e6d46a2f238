"""A first session in Python: needs `make up` in another terminal, and httpx."""

import sys

import httpx

GATEWAY = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"

with httpx.Client(base_url=GATEWAY) as kato:
    try:
        session = kato.post("/sessions", json={"user_id": "alice"}).raise_for_status().json()
    except httpx.TransportError as error:
        sys.exit(f"no gateway at {GATEWAY} ({error}): start one with `make up`, or name the address of another")
    path = f"/sessions/{session['session_id']}"
    for word in ("a", "b", "c"):
        kato.post(f"{path}/observe", json={"strings": [word]}).raise_for_status()
    print("learned ", kato.post(f"{path}/learn").json()["pattern_name"])
    for word in ("a", "b"):
        kato.post(f"{path}/observe", json={"strings": [word]}).raise_for_status()
    best = kato.get(f"{path}/predictions").json()["predictions"][0]
    print("present ", best["present"])
    print("future  ", best["future"])
    print("because ", best["name"], "matched", best["matches"], "similarity", best["similarity"])
    kato.delete(path).raise_for_status()
