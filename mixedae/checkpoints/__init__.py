"""Checkpoints: safe reading of files, recognising their format, loading them into the backbone with a report."""

from mixedae.checkpoints.formats import FORMATS, Format, find_format
from mixedae.checkpoints.loading import LoadReport, load_backbone
from mixedae.checkpoints.reading import CheckpointError, read_checkpoint, read_file, state_dict_of

__all__ = [
    'FORMATS',
    'CheckpointError',
    'Format',
    'LoadReport',
    'find_format',
    'load_backbone',
    'read_checkpoint',
    'read_file',
    'state_dict_of',
]
