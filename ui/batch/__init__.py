"""Manifests and the folders of pictures made from them."""
