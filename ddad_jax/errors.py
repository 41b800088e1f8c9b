"""The one kind of error that a user can mend."""


class UserError(Exception):
    """Bad input: one line naming the file or setting, what was found, and what to do.

    `ddad_jax.main` prints it as `error: …` and exits with code 2.
    """
