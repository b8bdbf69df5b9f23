OWN_ERROR: dict[str, dict[str, float]] = {}
GRADIENT: dict[str, float] = {}
