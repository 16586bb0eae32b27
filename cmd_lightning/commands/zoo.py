"""The verbs `zoo list`, `zoo show` and `zoo rank`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cmd_lightning.commands.files import make_folder, tell, write_json
from cmd_lightning.errors import InputError, check_positive
from cmd_lightning.markdown import aligned
from cmd_lightning.zoo import Entry, entries, entry
from cmd_lightning.zoo.card import Kind
from cmd_lightning.zoo.discovery import own_networks

TITLES: Mapping[Kind, str] = {
    "model": "included models",
    "motion": "motion models",
    "content": "content models",
    "autoencoder": "autoencoders",
    "baseline": "baselines",
}


def list_(*, kind: Kind | None = None, json: str | None = None) -> None:
    """List the zoo: included models, and networks that you can give to a component by name.

    Args:
        kind: Kind of the entries (default: all).
        json: Write the list, with all fields, to this file; - is standard output.
    """
    found = entries(kind)
    if json:
        write_json([fields(entry) for entry in found], json)
        return
    width = shutil.get_terminal_size((120, 24)).columns
    names = max((len(entry.name) for entry in found), default=0)
    for number, (key, title) in enumerate(TITLES.items()):
        members = [entry for entry in found if entry.kind == key]
        if members:
            print(title if number == 0 or kind else f"\n{title}")
        for card in (member.card for member in members):
            mark = "ships" if key == "model" else "ranked" if card.ranking else "public" if card.weights else ""
            print(cut(f"  {card.name:{names}}  {short(card.total):>7}  {mark:6}  {card.what}".rstrip(), width))
    if not kind:
        print(cut("\nranked: by `zoo rank`; public: weights on the hub. More: cmd-lightning zoo show NAME", width))


def show(name: str, *, json: str | None = None) -> None:
    """Show details of an entry of the zoo.

    Args:
        name: Name of the entry, as in `zoo list`.
        json: Write it, with all fields of its card, to this file; - is standard output.

    Raises:
        InputError: There is no entry of that name.
    """
    found = entry(name)
    known = fields(found)
    if known["parameters"] is None and (found.kind in ("motion", "autoencoder") or found.card.video):
        from cmd_lightning.zoo.sizes import count_parameters

        known["parameters"] = count_parameters(found)
    if json:
        write_json(asdict(found.card) | known, json)
        return
    card = found.card
    weights = "ship with the package" if found.kind == "model" else card.weights
    shown = {
        **{key: known[key] for key in ("name", "kind", "what", "source")},
        "class": f"{found.module}.{found.name}" if found.module else "",
        "parameters": sizes(known["parameters"]) if known["parameters"] else "",
        "counted for": counted_for(found),
        "config": card.config,
        "weights": f"{weights} ({card.licence})" if card.licence else weights,
        "naturalness": natural(card.naturalness),
        "ranking": f"ranked with {len(card.ranking['seeds'])} seeds" if card.ranking.get("seeds") else "",
        "card": f"zoo/cards/{name}.md" if found.kind == "model" else "",
    }
    print(listing(shown, shutil.get_terminal_size((120, 24)).columns))


def fields(entry: Entry) -> dict[str, Any]:
    """The fields of an entry in the JSON of `zoo list`."""
    card = entry.card
    known = {key: getattr(card, key) for key in ("name", "kind", "what", "source", "parameters", "config", "weights")}
    return known | {"module": entry.module, "ranked": bool(card.ranking)}


def natural(measured: Mapping[str, Any]) -> str:
    """How natural the content frames of an autoencoder are, on one line; "" if not measured."""
    errors = ", ".join(f"{found['denoising_error']:.2f} with {frame}" for frame, found in measured.items())
    return f"denoising error of content frames over that of real frames: {errors}" if errors else ""


def counted_for(entry: Entry) -> str:
    """The input for which the parameters of a network are counted, in words."""
    card = entry.card
    if entry.kind == "motion":
        return "the latents of shapes32paper, as `zoo rank` trains it"
    if "shape" not in card.video:
        return ""
    channels, frames, height, width = card.video["shape"]
    made = f"{frames} frames of {height}x{width} points, {channels} channels"
    return f"{made}; {card.condition_dim} channels of the condition" if card.condition_dim else made


def sizes(parameters: int | Mapping[str, int]) -> str:
    """Parameters in words, by part if there are several."""
    if isinstance(parameters, int):
        return f"{parameters:,}"
    parts = ", ".join(f"{part} {short(number)}" for part, number in parameters.items())
    return f"{sum(parameters.values()):,}: {parts}"


def short(number: int | None) -> str:
    """A number in three digits: 3.21 M, 866 M, 1.41 B; "" for None."""
    if number is None:
        return ""
    scale, unit = (1e9, "B") if number >= 999.5e6 else (1e6, "M") if number >= 999.5e3 else (1e3, "k")
    value = number / scale
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def cut(text: str, width: int) -> str:
    """`text`, shortened to a line of the terminal."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def listing(values: Mapping[str, str], width: int) -> str:
    """Names with non-empty values, each as a line or a wrapped paragraph."""
    names = max(len(name) for name in values) + 2
    wrapper = textwrap.TextWrapper(max(width, names + 20), break_on_hyphens=False, break_long_words=False)
    wrapper.subsequent_indent = " " * names
    return "\n".join(wrapper.fill(f"{name:{names}}{value}") for name, value in values.items() if value)


def rank(
    model: str,
    *,
    config: str | None = None,
    name: str | None = None,
    seeds: int = 3,
    samples: int | None = None,
    out: str = "outputs/rank",
    save: bool = False,
    json: str | None = None,
) -> None:
    """Rank a motion model: train it on cached latents, score it, and print it in the zoo's ranking.

    Every model is trained with the same optimiser on the same clips and noise, in the same order, and is scored with
    true content frames. Seeds train in parallel, one per core; the same command resumes an interrupted run.

    Args:
        model: Name in the zoo (MotionDiT), your own class (my_pkg.MyMotion, may be in the working directory), or a
            config as in configs/motion.
        config: Config as in configs/motion with the arguments of the class (default: the zoo's config, or the
            defaults of your class).
        name: Name of the row and the card; by default that of the class.
        seeds: How many times to train, at most 10.
        samples: Training samples per seed, by default those of the leaderboard; others cannot be compared with it.
        out: Folder for cached latents and the result of each seed.
        save: Write the result into the card, zoo/cards/NAME.yaml.
        json: Write the result to this file; - is standard output, with nothing else on it.

    Raises:
        InputError: There is no such model, it cannot be built or trained, its numbers are not finite, samples are too
            few, or there is no card to save it in.
    """
    check_positive(seeds=seeds, **{} if samples is None else {"samples": samples})
    for path in (config, model if model.endswith((".yaml", ".yml")) else None):
        if path is not None and not Path(path).is_file():
            raise InputError(f"{'MODEL' if path == model else '--config'} {path}: there is no such file")
    if model.isidentifier() and (kind := entry(model).kind) != "motion":
        raise InputError(f"MODEL {model}: this is not a motion model ({kind}); see `cmd-lightning zoo list`")
    from cmd_lightning.ranking import leaderboard
    from cmd_lightning.ranking.candidate import candidate
    from cmd_lightning.ranking.protocol import Protocol
    from cmd_lightning.ranking.rank import rank as ranked

    protocol = Protocol()
    if samples not in (None, protocol.samples):
        if save:
            raise InputError(f"--samples {samples}: the leaderboard is of {protocol.samples}; leave it out, or --save")
        protocol = replace(protocol, samples=samples)
    found = candidate(model, config, name)
    own = next((one for one in own_networks("motion") if one.name == found.name), None)
    if save and (own is None or found != candidate(own.name)):
        raise InputError(
            f"--save: only motion models of the zoo with their config in configs/motion have cards, not {found.name}; "
            "leave it out, and keep the result by --json"
        )
    result = ranked(found, protocol, seeds, make_folder(Path(out), "--out"), tell)
    write_json({"name": found.name, "ranking": result}, json)
    if json != "-":
        print(aligned(leaderboard.table(leaderboard.ranked() | {found.name: result}, marked=found.name)))
    if save and own is not None:
        tell(f"{leaderboard.save(result, own)}: written")
