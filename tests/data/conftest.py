import pytest
from shard_files import sample, write_tar


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Five shards of 4, 7, 1, 5 and 6 samples, with an index."""
    folder = tmp_path_factory.mktemp("shards")
    number = 0
    for shard, count in enumerate((4, 7, 1, 5, 6)):
        write_tar(folder / f"{shard:05d}.tar", [sample(f"{number + i:04d}", number + i) for i in range(count)])
        number += count
    return folder
