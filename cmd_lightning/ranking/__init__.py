"""Ranking motion models: each is trained in the same way on the same cached latents, and scored on the same clips."""
