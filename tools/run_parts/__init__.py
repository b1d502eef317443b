"""What tools/train.py and tools/test.py share."""
