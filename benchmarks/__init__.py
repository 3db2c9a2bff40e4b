"""Timings of the steps beside their floors, and the plain reference implementations they are held against."""
