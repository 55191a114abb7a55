"""Offline evaluation: figures of merit, recovery on renders, a second face model, photographs, DISFA."""
