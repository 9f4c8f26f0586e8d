"""Pages: what was measured, for people, each in one self-contained HTML file."""
