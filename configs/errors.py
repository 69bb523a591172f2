"""What configs refuses."""


class ConfigError(ValueError):
    """Settings that cannot work, found before anything starts.

    problems: one readable message each: the setting, its value, what is allowed, what to do.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
