"""Checkpoints: safe reading of files, recognising their format, loading them into the backbone with a report."""

from mixedae.checkpoints.formats import FORMATS, Format, find_format
from mixedae.checkpoints.loading import load_backbone, load_pretrained
from mixedae.checkpoints.reading import CheckpointError, read_checkpoint, read_file, state_dict_of
from mixedae.checkpoints.report import LoadReport
from mixedae.checkpoints.selecting import Weights, open_weights

__all__ = [
    'FORMATS',
    'CheckpointError',
    'Format',
    'LoadReport',
    'Weights',
    'find_format',
    'load_backbone',
    'load_pretrained',
    'open_weights',
    'read_checkpoint',
    'read_file',
    'state_dict_of',
]
