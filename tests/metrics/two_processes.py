"""What two processes of a metric compute together."""

from torch.multiprocessing import start_processes


def run_two(function, folder) -> None:
    """Runs `function(rank, folder)` in two processes.

    They are forks, which need no imports: nothing in them goes backward, which would need threads of autograd.

    Args:
        function: Sets the number of its threads to one first: a fork has no others.
        folder: Where the two meet, and what they computed is stored.
    """
    start_processes(function, (str(folder),), nprocs=2, start_method="fork")
