"""Streams in words: what is learned and forgotten, in what order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxunlearn import continual as co
from jaxunlearn.continual.metrics import FORGOTTEN, RETAINED, UNSEEN

STREAMS = ("published", "requests_last", "mixed", "random")
OWN = "events"


def named_stream(name: str, num_tasks: int, seed: int) -> list[co.Event]:
  """The events of a stream by name.

  Args:
    name: "published", that of the CLU paper (learn all tasks but the last;
      then forget the odd ones, learn the even ones again, learn the last);
      "requests_last" (learn all, then forget the odd ones); "mixed" (learning
      and forgetting in turn, a forgotten task learned again, an event that does
      both); "random", another one for every seed.
    num_tasks: K >= 2.
    seed: of a random stream.
  """
  everything = range(num_tasks)
  if name == "published":
    first = [co.learn(t) for t in everything[:-1]]
    turns = [co.forget(t) if t % 2 else co.learn(t) for t in everything[1:-1]]
    return [*first, *turns, co.learn(num_tasks - 1)]
  if name == "requests_last":
    odd = [co.forget(t) for t in everything if t % 2]
    return [*(co.learn(t) for t in everything), *odd]
  if name == "mixed":
    # A task comes, the one before it goes.
    events = [co.learn(0)]
    for t in everything[1:]:
      events += [co.learn(t)] + [co.forget(t - 1)] * (t % 2)
    return [*events, co.Event((0,), (num_tasks - 1,))]
  rng = np.random.default_rng(seed)
  known: set[int] = set()
  events = []
  for _ in range(2 * num_tasks):
    others = [t for t in everything if t not in known]
    if others and (len(known) < 2 or rng.random() < 0.6):
      known.add(task := int(rng.choice(others)))
      events.append(co.learn(task))
    else:
      known.remove(task := int(rng.choice(sorted(known))))
      events.append(co.forget(task))
  return events


def parse_streams(text: str) -> tuple[str, ...]:
  """Names of streams.

  Raises:
    ValueError: an unknown name, or none.
  """
  names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
  for name in names or (text,):
    if name not in STREAMS:
      raise ValueError(
        f"Expected --streams of {', '.join(STREAMS)}, got {name!r}."
      )
  return names


def parse_events(text: str, num_tasks: int) -> list[co.Event]:
  """The events of "learn:0 learn:1,2 forget:0 learn:3+forget:1".

  Raises:
    ValueError: words of another form, tasks that do not exist, an event that
      learns and forgets the same task, a stream that learns nothing.
  """
  events = [_parse_event(word, num_tasks) for word in text.split()]
  if not any(event.learn for event in events):
    raise ValueError(
      f"Expected --events to learn something, as in learn:0, got {text!r}."
    )
  return events


def _parse_event(word: str, num_tasks: int) -> co.Event:
  asked: dict[str, tuple[int, ...]] = {"learn": (), "forget": ()}
  for part in word.split("+"):
    kind, _, numbers = part.partition(":")
    texts = numbers.split(",")
    if kind not in asked or not all(t.isdecimal() for t in texts):
      raise ValueError(
        "Expected --events as in 'learn:0 learn:1,2 forget:0 "
        f"learn:3+forget:1', got {word!r}."
      )
    if max(map(int, texts)) >= num_tasks:
      raise ValueError(
        f"Expected --events with tasks in 0 .. {num_tasks - 1}, got {word!r}."
      )
    asked[kind] += tuple(map(int, texts))
  if set(asked["learn"]) & set(asked["forget"]):
    raise ValueError(
      "Expected --events that do not learn and forget a task at once, got "
      f"{word!r}."
    )
  return co.Event(**asked)


def words(event: co.Event) -> str:
  """An event in a few signs, "+0" learned, "-1" forgotten."""
  marks = [f"+{t}" for t in event.learn] + [
    f"\N{MINUS SIGN}{t}" for t in event.forget
  ]
  return " ".join(marks)


def streams(
  text: str, own: str | None, seeds: Sequence[int], num_tasks: int
) -> dict[str, list[list[co.Event]]]:
  """By name the events of a stream, for every seed.

  Args:
    text: names with commas between, or `OWN`.
    own: what `OWN` stands for, see `parse_events`.
    seeds: of random streams.
    num_tasks: K.
  """
  if text == OWN:
    return {OWN: [parse_events(own or "", num_tasks)] * len(seeds)}
  return {
    name: [named_stream(name, num_tasks, seed) for seed in seeds]
    for name in parse_streams(text)
  }


def padded(events: Sequence[co.Event], length: int) -> list[co.Event]:
  """The same with events after it in which nothing happens."""
  return [*events, *[co.Event()] * (length - len(events))]


def status(events: Sequence[co.Event], num_tasks: int) -> np.ndarray:
  """What should be known of whole tasks, int [T, K]; see `task_status`."""
  now = np.full(num_tasks, UNSEEN)
  found = []
  for event in events:
    gone = [t for t in event.forget if now[t] == RETAINED]
    now[list(event.learn)] = RETAINED
    now[gone] = FORGOTTEN
    found.append(now.copy())
  return np.stack(found)
