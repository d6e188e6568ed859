"""Share one training among several processes (ranks), each with its own device."""
