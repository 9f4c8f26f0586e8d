"""Files of transitions, our own and those of other libraries: modules with `read` and `write`."""
