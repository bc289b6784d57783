"""Fetching what is not in the project: HELMET's data and named models, each with its checksum."""
