"""What tools made of stages share: commands, written configs, facts about machine and versions."""
