"""Images: built, imported, cut into sealed chunks, published, fetched. Imports `model`, `platform` and `trust`."""
