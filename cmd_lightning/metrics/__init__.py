"""Video metrics; this room imports neither lightning nor diffusers."""
