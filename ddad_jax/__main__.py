"""`python -m ddad_jax`: the same as the command `ddad_jax`."""

from ddad_jax.main import command

if __name__ == "__main__":
    command()
