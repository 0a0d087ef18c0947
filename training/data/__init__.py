"""Data: fields, stacks, pairs, and the crops that training sees."""
