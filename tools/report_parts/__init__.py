"""What tools/report.py is made of: reading a run, judging it, the page."""
