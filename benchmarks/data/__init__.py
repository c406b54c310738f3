"""Datasets of ImageNet's shape and of ImageNet's size, to measure the input with."""
