"""detectron2's ViTDet: timm's names under ``backbone.net.``, no [CLS] but its row in the position table."""

from __future__ import annotations

from mixedae.checkpoints.formats.base import Format, has_name
from mixedae.checkpoints.formats.plain import under

VITDET = Format('detectron2 ViTDet', has_name(r'backbone\.net\.blocks\.'), under('backbone.net.'))
