"""One module for each part of tools/benchmark.py: ``add_arguments(parser)`` and ``run(args) -> results``."""
