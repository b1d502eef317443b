"""Parts of tools/browse_crops.py."""
