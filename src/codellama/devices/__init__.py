"""Where layers and caches go: how much fits which device. Pure arithmetic over sizes in bytes."""
