"""The parts of tools/demo.py: data layout -> budget -> stage configs -> stages -> pictures -> report."""
