"""One module per dataset or family: its files, prompts, rows and metrics.

Each has ``PROMPTS`` and ``SCORER`` (versions), ``files(name, length, data)``, ``rows(name, settings,
notes)`` and ``metrics(doc, output)``; :mod:`rr_bench.tasks.sources` finds the module of a task.
"""
