"""The parts of tools/reproduce.py: data -> budget x variant -> configs -> stages -> results -> claims -> tables."""
