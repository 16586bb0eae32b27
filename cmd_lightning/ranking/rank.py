"""Ranks one model with several seeds; after an interruption, finished seeds are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cmd_lightning.atomic_files import replaced
from cmd_lightning.errors import InputError
from cmd_lightning.provenance import provenance
from cmd_lightning.ranking import cost
from cmd_lightning.ranking.candidate import Candidate, candidate
from cmd_lightning.ranking.estimates import MOST_SEEDS
from cmd_lightning.ranking.latents import Bench, open_bench
from cmd_lightning.ranking.protocol import Protocol, digest, key_of
from cmd_lightning.ranking.score import references, score
from cmd_lightning.ranking.train import seeded, train
from cmd_lightning.threads import cores, one_thread

DIGITS = 5
"""Significant digits of kept numbers."""
CHECKED = 2
"""Samples of the call that checks a model before training."""


def rank(model: Candidate, protocol: Protocol, seeds: int, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Trains and scores a model with each seed, on one thread each and as many at a time as there are cores.

    Args:
        model: The motion model.
        protocol: The settings; only results of the same protocol and clips can be compared.
        seeds: Number of seeds, counted from 0.
        folder: Where the cached clips ("cache") and the scores of each seed are kept; later calls reuse them.
        tell: Called with lines of progress. With several cores it is pickled, as each seed has a process.

    Returns:
        The entry "ranking" of a card, as plain data.

    Raises:
        InputError: `seeds` is out of range, there are fewer samples than two steps need, the model cannot be built or
            called for these latents, or its loss, gradients or samples are NaN or infinite.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError(f"seeds {seeds}: give 1 to {MOST_SEEDS}; an interval needs at least 2")
    least = protocol.batch_size * 2
    if protocol.samples < least:
        raise InputError(f"samples {protocol.samples}: too few to train on; give at least {least}, two steps")
    with one_thread():
        bench = open_bench(protocol, folder / "cache", tell)
        encoder = bench.pipeline.motion_text_encoder
        assert encoder is not None
        spec = bench.pipeline.autoencoder.latent_spec(tuple(bench.pipeline.config["video_shape"]))
        with seeded(0):
            model.check(spec, encoder(bench.captions["test"][:CHECKED]))
            network = model.build(spec, encoder.dim)
            found = cost.counts(network, spec, encoder(bench.captions["test"][:1]))
            yardstick = candidate(cost.YARDSTICK).build(spec, encoder.dim)
        tell(f"{model.name}: {found['parameters'] / 1e6:.2f} M parameters, {found['macs'] / 1e6:.1f} MMAC per step")
        kept = folder / model.name / key_of(model.record, network, protocol, bench.key)
        rows = all_seeds(model, bench, protocol, seeds, folder / "cache", kept, tell)
        sampling = cost.timing(network.eval(), yardstick.eval(), bench, protocol)
        return {
            "key": digest(protocol.record | {"bench": bench.key}),
            "protocol": protocol.record,
            "network": model.record,
            "seeds": rows,
            "reference": rounded(references(bench)),
            "sampling": rounded(sampling),
            **found,
            "provenance": provenance(),
        }


def all_seeds(
    model: Candidate, bench: Bench, protocol: Protocol, seeds: int, cache: Path, kept: Path, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The scores of seeds 0, 1, ...: from the folder `kept`, or else from training in separate processes.

    If there is one process only, it is this one, with `bench`; others open the clips in `cache`.
    """
    rows: dict[int, dict[str, Any]] = {}
    for seed in range(seeds):
        with suppress(OSError, ValueError):
            rows[seed] = json.loads((path := kept / f"seed-{seed}.json").read_text())
            tell(f"{model.name}, seed {seed}: {in_words(rows[seed])}, kept in {path}")
    missing = [seed for seed in range(seeds) if seed not in rows]
    processes = min(len(missing), cores())
    with ProcessPoolExecutor(max(processes, 1), get_context("spawn")) as pool:  # starts no process until it is used
        run, opened = (pool.map, None) if processes > 1 else (map, bench)
        found = run(partial(one_seed, model, protocol, cache, kept, tell, bench=opened), missing)
        rows |= dict(zip(missing, found, strict=True))
    return [rows[seed] for seed in range(seeds)]


def one_seed(
    model: Candidate,
    protocol: Protocol,
    cache: Path,
    kept: Path,
    tell: Callable[[str], None],
    seed: int,
    bench: Bench | None = None,
) -> dict[str, Any]:
    """Trains with a seed, and keeps the scores; without `bench`, as in another process, it opens the cached clips."""
    kept.mkdir(parents=True, exist_ok=True)
    with one_thread():
        bench = bench or open_bench(protocol, cache, tell)
        begun = time.process_time()
        network, facts = train(
            model.build, bench, protocol, seed, kept, lambda line: tell(f"{model.name}, seed {seed}: {line}")
        )
        row = rounded({"seed": seed, **score(network, bench, protocol, seed), **facts})
    row["core_seconds"] = round(time.process_time() - begun)  # little affected by other work on the machine
    made = provenance()
    row |= {"commit": made["commit"], "date": made["date"]}
    with replaced(kept / f"seed-{seed}.json") as draft:
        draft.write_text(json.dumps(row) + "\n")
    tell(f"{model.name}, seed {seed}: {in_words(row)}")
    return row


def in_words(row: dict[str, Any]) -> str:
    """The scores of a seed in words."""
    return (
        f"distance {row['frechet']:.2f}, direction classified correctly {row['direction']:.1%}, "
        f"{row['core_seconds']} CPU seconds"
    )


def rounded(value: Any) -> Any:
    """Plain data with floats rounded to a few significant digits."""
    return json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.{DIGITS}g}"))
