"""det_runtime.py for schedules by iterations."""

_base_ = './det_runtime.py'

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=5000, max_keep_ckpts=2)
)
log_processor = dict(by_epoch=False)
