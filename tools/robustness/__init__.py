"""The checks behind docs/robustness.md: each runs the program on one kind of input and says what happened."""
