"""Emoji Diffusion: the small latent diffusion model that is shipped in assets/, and how it was made."""
