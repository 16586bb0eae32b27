"""CMD: content-motion latent diffusion for video (arXiv 2403.14148), as a modular Lightning framework."""

__version__ = "0.2.0"
