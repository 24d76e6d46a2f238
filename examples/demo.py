"""Two users side by side, then Bach: learn 300 chorales and predict the next chord of 68 others.

    make demo                                       starts a gateway of its own, in a folder of its own
    python -m examples.demo --url http://127.0.0.1:8000    uses a running one (its sessions are ended afterwards)
    python -m examples.demo --works 5               only five of the 68, for a first look

Each chord is one symbol, such as `C3 C5 E4 G4`. Auto-learning in ROLLING mode turns a chorale into overlapping
phrases of four chords; the last three chords heard are then looked up among them. What KATO answers is a list of
phrases with the chords that follow in each; every phrase that heard the current chord votes for its next one, with its
frequency times its similarity squared. The weight is the demo's choice; matches, similarity and frequency are KATO's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from examples.gateway import gateway

DATA = Path(__file__).parent / "data" / "chorales.jsonl"
LEARNED_WORKS = 300
PHRASE = 4
CONTEXT = PHRASE - 1

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chorale:
    """One chorale: its BWV number, its key before transposition, its chords in order, each as one symbol."""

    work: str
    key: str
    chords: tuple[str, ...]


class Session:
    """One KATO session, reached through the gateway."""

    def __init__(self, client: httpx.Client, **create: object) -> None:
        self._client = client
        self.id: str = self._send("POST", "/sessions", create)["session_id"]

    def call(self, method: str, operation: str, body: Json | None = None) -> Json:
        """Send one operation of the session and return the reply's body."""
        return self._send(method, f"/sessions/{self.id}/{operation}", body)

    def hear(self, events: Iterable[Sequence[str]], metadata: Json | None = None, **options: bool) -> Json:
        """Observe a sequence of events in one call, all or nothing."""
        observations = [{"strings": list(event), "metadata": metadata or {}} for event in events]
        return self.call("POST", "observe-sequence", {"observations": observations, **options})

    def end(self) -> None:
        """End the session; what its processor learned stays."""
        self._client.delete(f"/sessions/{self.id}").raise_for_status()

    def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> Json:
        reply = self._client.request(method, path, json=body)
        if reply.is_error:
            raise SystemExit(f"{method} {path}: {reply.status_code} {reply.text}")
        answer: Json = reply.json()
        return answer


def load(path: Path = DATA) -> list[Chorale]:
    """Read the chorales in the file's order."""
    works = (json.loads(line) for line in path.read_text().splitlines())
    return [
        Chorale(work=work["work"], key=work["key"], chords=tuple(" ".join(notes) for notes in work["events"]))
        for work in works
    ]


def two_users(client: httpx.Client) -> None:
    """Show that two sessions share nothing: not the short-term memory, not what is learned."""
    print("\n1. Two users side by side\n")
    alice, bob = Session(client, user_id="alice"), Session(client, user_id="bob")
    for event in ("coffee", "toast", "work"):
        alice.call("POST", "observe", {"strings": [event]})
        bob.call("POST", "observe", {"strings": ["tea"]})
    print("   alice's short-term memory ", alice.call("GET", "stm")["stm"])
    print("   bob's short-term memory   ", bob.call("GET", "stm")["stm"])
    print("   alice learns              ", alice.call("POST", "learn")["pattern_name"])
    for user in (alice, bob):
        user.call("POST", "clear-stm")
        user.hear([["coffee"], ["toast"]])
    print("   both observe coffee, toast:")
    print("   alice expects             ", [item["future"] for item in alice.call("GET", "predictions")["predictions"]])
    print("   bob expects               ", [item["future"] for item in bob.call("GET", "predictions")["predictions"]])
    for user in (alice, bob):
        user.end()


def learn(session: Session, works: Sequence[Chorale]) -> float:
    """Learn every phrase of the works; return the observations per second, each of them durable."""
    started, observed = time.perf_counter(), 0
    for chorale in tqdm(works, desc="   learning", unit="chorale"):
        session.hear(([chord] for chord in chorale.chords), {"work": chorale.work}, learn_at_end=True)
        observed += len(chorale.chords)
    return observed / (time.perf_counter() - started)


def steps(works: Sequence[Chorale]) -> Iterator[tuple[Chorale, int]]:
    """Yield each chorale with the position of each chord that is to be predicted: all but the first."""
    return ((chorale, position) for chorale in works for position in range(1, len(chorale.chords)))


def recall(session: Session, heard: Sequence[str]) -> list[Json]:
    """Return KATO's predictions after hearing these chords and nothing else."""
    session.call("POST", "clear-stm")
    session.hear([chord] for chord in heard)
    predictions: list[Json] = session.call("GET", "predictions")["predictions"]
    return predictions


def speaks_of_now(prediction: Json) -> bool:
    """Tell whether the phrase explains the chord heard last, and goes on after it."""
    return not prediction["extras"][-1] and bool(prediction["future"])


def ranked(predictions: Iterable[Json]) -> list[str]:
    """Return the next chords that the predictions vote for, most votes first, ties by name."""
    votes: dict[str, float] = defaultdict(float)
    for prediction in filter(speaks_of_now, predictions):
        votes[prediction["future"][0][0]] += prediction["frequency"] * prediction["similarity"] ** 2
    return sorted(votes, key=lambda chord: (-votes[chord], chord))


def baselines(works: Sequence[Chorale]) -> dict[str, defaultdict[str, list[str]]]:
    """Return, for each baseline, the five best next chords after a given chord."""
    following: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for chorale in works:
        for now, after in zip(chorale.chords, chorale.chords[1:], strict=False):
            following[now][after] += 1
    overall = [chord for chord, _ in Counter(chord for work in works for chord in work.chords).most_common(5)]
    successors = {now: [chord for chord, _ in after.most_common(5)] for now, after in following.items()}
    return {
        "most frequent successor": defaultdict(list, successors),
        "most frequent chord": defaultdict(lambda: overall),
    }


def evaluate(session: Session, works: Sequence[Chorale], guess: Mapping[str, Mapping[str, list[str]]]) -> None:
    """Predict every step, and print how often each method had the next chord first, and among its first five."""
    hits: dict[str, list[int]] = {name: [0, 0] for name in ("KATO", *guess)}
    todo = list(steps(works))
    bar = tqdm(todo, desc="   predicting", unit="chord")
    for done, (chorale, position) in enumerate(bar, 1):
        now, truth = chorale.chords[position - 1], chorale.chords[position]
        answers = {"KATO": ranked(recall(session, chorale.chords[max(0, position - CONTEXT) : position]))}
        answers |= {name: table[now] for name, table in guess.items()}
        for name, answer in answers.items():
            hits[name][0] += truth in answer[:1]
            hits[name][1] += truth in answer[:5]
        if done % 50 == 0:
            bar.set_postfix_str(f"right so far {hits['KATO'][0] / done:.1%}")
    print(f"\n   {'the next chord, right':28}{'first':>8}{'in five':>10}")
    for name, (first, five) in hits.items():
        print(f"   {name:28}{first / len(todo):>8.1%}{five / len(todo):>10.1%}")


def explain(session: Session, works: Sequence[Chorale]) -> None:
    """Print the first step at which KATO is right by two matched chords or more, and where it knows that from."""
    for chorale, position in steps(works):
        heard, truth = chorale.chords[max(0, position - CONTEXT) : position], chorale.chords[position]
        predictions = recall(session, heard)
        witnesses = [item for item in filter(speaks_of_now, predictions) if item["future"][0][0] == truth]
        if ranked(predictions)[:1] != [truth] or len(witnesses[0]["matches"]) < 2:
            continue
        best = witnesses[0]
        print(f"\n   One prediction, explained: {chorale.work}, chord {position + 1}\n")
        print("   heard     ", " | ".join(heard))
        print("   came      ", truth)
        print("   KATO said ", best["future"][0][0], f"({len(witnesses)} phrases say so)")
        print("   because of", best["name"])
        print("   learned in", ", ".join(best["metadata"]["work"]), f"({best['frequency']} times)")
        print("   matched   ", " | ".join(best["matches"]), f"(similarity {best['similarity']:.3f})")
        print("   missing   ", best["missing"], " not in it:", best["extras"])
        print("   phrase    ", " | ".join(event[0] for event in best["sequence"]))
        return


def bach(client: httpx.Client, tested: int) -> None:
    """Learn 300 chorales, predict the others, compare, explain."""
    print("\n2. Bach: 300 chorales learned, the next chord predicted in the others\n")
    works = load()
    config = {"max_pattern_length": PHRASE, "stm_mode": "ROLLING"}
    teacher = Session(client, user_id="demo", node_id="chorales", config=config)
    rate = learn(teacher, works[:LEARNED_WORKS])
    phrases = teacher.call("GET", "status")["patterns"]
    print(f"   {rate:,.0f} durable observations per second; {phrases:,} phrases learned\n")
    # Another session on the same processor: it shares what was learned, and nothing else.
    listener = Session(
        client, user_id="demo", node_id="chorales", config={"rank_sort_algo": "similarity", "max_predictions": 200}
    )
    unheard = works[LEARNED_WORKS : LEARNED_WORKS + tested]
    evaluate(listener, unheard, baselines(works[:LEARNED_WORKS]))
    explain(listener, unheard)
    teacher.end()
    listener.end()


def main() -> None:
    """Run the demo against `--url`, or against a gateway of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running gateway; by default one is started for the demo and stopped after it")
    parser.add_argument("--works", type=int, default=68, help="how many of the 68 unheard chorales to predict")
    arguments = parser.parse_args()
    with gateway(arguments.url) as url, httpx.Client(base_url=url, timeout=60) as client:
        print(f"KATO gateway at {url}")
        try:
            two_users(client)
            bach(client, arguments.works)
        except httpx.TransportError as error:
            raise SystemExit(f"no gateway at {url} ({error}): start one with `make up`, or leave --url out") from None


if __name__ == "__main__":
    main()
