"""How many parameters a network has and how many multiply-adds a call of it takes, without doing any of it.

    python -m benchmarks.counting configs/webvid_sd21
    python -m benchmarks.counting configs/webvid_sd21 --override autoencoder=configs/overrides/autoencoder_measured.yaml

The networks of a folder of configs are built on the meta device, where tensors have shapes and no values, and called
once with one clip; torch's flop counter sees every product. MACs are half of its FLOPs. The paper's efficiency tables
leave out the products within attention (queries with keys, weights with values), which the counter of its authors did
not see: "MACs as the paper counts" does too, "MACs" has them. Both are of one forward pass, without guidance.
"""

from __future__ import annotations

from benchmarks.cells import command_line
from benchmarks.configured import add_arguments, asked, calls
from cmd_lightning import markdown
from cmd_lightning.errors import program
from cmd_lightning.networks.counting import Count


def table(counts: dict[str, Count]) -> str:
    """Counts by name as a Markdown table."""
    rows = (
        (name, f"{found.parameters / 1e6:.1f}", f"{found.products / 1e12:.4f}", f"{found.macs / 1e12:.4f}")
        for name, found in counts.items()
    )
    return markdown.table(("network", "parameters, M", "MACs as the paper counts, T", "MACs, T"), rows)


def main() -> int:
    """The command line."""
    parser = command_line(__doc__)
    add_arguments(parser)
    print(table({name: call.count() for name, call in calls(asked(parser.parse_args())).items()}))
    return 0


if __name__ == "__main__":
    program(main)
