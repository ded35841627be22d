"""Versions: Git tags with evidence, and the store that servers read.

- `tags`: tags in GTO's format
- `record`: the state of a model's registry, read from its tags
- `evidence`: what a release must show, gathered and checked
- `releases`: release, promote, rollback
- `timeline`: `modelkeep history` and `modelkeep show`
- `store`: bundles by their hash, and the pointer to those in service
- `agreement`: whether what is served here is what the record says
"""
