"""MixedAE: mixed autoencoder pre-training of vision transformers for dense perception.

Importing the package registers its models and engine parts with MMEngine under the scope ``mixedae``; it needs neither
mmcv's compiled ops nor mmdet or mmseg.
"""

from mixedae import engine, functional, layers, models, registry

__version__ = '0.1.0'

__all__ = ['__version__', 'engine', 'functional', 'layers', 'models', 'registry']
