"""The yardstick: training of its networks, and the proof that they measure."""
