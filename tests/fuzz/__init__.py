"""Coverage-guided fuzzing of everything that decodes what came over the wire, run by ``make fuzz``."""
