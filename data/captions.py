"""Look at some captions of shards, without reading video."""

from collections.abc import Sequence
from itertools import islice

from cmd_lightning.data.cache import ShardCache
from cmd_lightning.data.clips import BadSample, read_caption, read_facts
from cmd_lightning.data.index import Shard, is_remote

MOST = 1000  # captions: the share of a kind of them is then known to 3 %
_FILES = 32  # shards that are opened for them


def some_captions(shards: Sequence[Shard], remote: ShardCache) -> list[str]:
    """Captions of up to 1000 good samples, all of them in small data.

    They are the first ones of up to 32 shards, spread evenly; of remote shards only those of the first one, which
    training fetches first in any case.
    """
    step = -(-len(shards) // _FILES)
    chosen = [shard for shard in shards if is_remote(shard.url)][:1] or shards[::step]
    each = -(-MOST // len(chosen))
    captions = []
    for shard in chosen:
        with shard.open(remote) as file:
            for sample in islice(shard.usable(file), each):
                try:
                    members = sample.read({"txt", "json"})
                    captions.append(read_caption(members, read_facts(members)))
                except BadSample:
                    continue
    return captions
