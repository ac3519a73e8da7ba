"""Contract suites, small networks and data for tests of this package and of architectures added to it."""
