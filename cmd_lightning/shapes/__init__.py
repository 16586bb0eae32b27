"""The procedural world: captioned moving shapes, and the networks that judge videos of them.

No core room imports this one: components, networks, diffusion, metrics, data, the pipeline and the zoo work without it.
"""
