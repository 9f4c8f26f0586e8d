"""Files of transitions, our own and those of other libraries: each module has `read(place, …)` and `write(data, place)`."""
